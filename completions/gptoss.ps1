# Completion of gptoss for PowerShell. Dot-source it from $PROFILE.

Register-ArgumentCompleter -Native -CommandName gptoss -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $common = '-v', '--verbose', '-q', '--quiet', '--color', '--debug', '-V', '--version', '-h', '--help'
    $turn = '-m', '--model', '-e', '--effort', '-s', '--instructions', '-t', '--temperature', '--top-p', '--top-k',
        '--seed', '--max-tokens', '--think-budget', '--free-headers', '--context', '--dtype', '--dense',
        '--threads', '--no-prefix-cache', '--reasoning'
    $ask = '--efforts', '--json'
    $bench = '--prompt', '--generate', '--repeat', '--json', '--dense', '--threads'
    $options = @{ 'ask' = $ask + $turn + $common; 'bench' = $bench + $common; 'chat' = $turn + $common }
    $values = @{
        '--color' = 'auto', 'always', 'never'
        '--model' = '20b', '120b', 'demo'
        '--effort' = 'none', 'low', 'medium', 'high'
        '--dtype' = 'float32', 'bfloat16'
        '--dense' = 'bf16', 'int8'
        '--reasoning' = 'show', 'hide'
        '--instructions' = @()
        '--temperature' = @()
        '--top-p' = @()
        '--top-k' = @()
        '--seed' = @()
        '--max-tokens' = @()
        '--think-budget' = @()
        '--context' = @()
        '--efforts' = @()
        '--threads' = @()
        '--prompt' = @()
        '--generate' = @()
        '--repeat' = @()
    }
    $longForms = @{ '-m' = '--model'; '-e' = '--effort'; '-s' = '--instructions'; '-t' = '--temperature' }

    $before = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursorPosition } |
        ForEach-Object { $_.Extent.Text })
    $command = $before | Select-Object -Skip 1 | Where-Object { $options.ContainsKey($_) } | Select-Object -First 1
    $previous = if ($before.Count -gt 1) { $before[-1] } else { '' }
    # -ceq: a hashtable's keys are not case-sensitive, and -V is not -v.
    $long = $longForms.Keys | Where-Object { $_ -ceq $previous } | ForEach-Object { $longForms[$_] }
    if ($long) { $previous = $long }

    $candidates = if ($values.ContainsKey($previous)) { $values[$previous] }
        elseif ($command) { $options[$command] }
        else { @('ask', 'bench', 'chat') + $common }
    $candidates | Where-Object { $_ -clike "$wordToComplete*" } | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
}
