# Completion of gptoss for PowerShell. Dot-source it from $PROFILE.

Register-ArgumentCompleter -Native -CommandName gptoss -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $common = '-v', '--verbose', '-q', '--quiet', '--color', '--debug', '-V', '--version', '-h', '--help'
    $turn = '-m', '--model', '-e', '--effort', '-s', '--instructions', '-t', '--temperature', '--top-p', '--top-k',
        '--seed', '--max-tokens', '--think-budget', '--free-headers', '--context', '--dtype', '--reasoning'
    $ask = '--efforts', '--json'
    $options = @{
        'ask' = $ask + $turn + $common
        'chat' = $turn + $common
        'download' = @('20b', '120b', '--revision', '--dry-run', '--json', '-y', '--yes') + $common
        'verify' = @('20b', '120b', 'demo', '--quick', '--json') + $common
        'list' = @('--json') + $common
        'remove' = @('20b', '120b', '--partial', '-y', '--yes') + $common
    }
    $values = @{
        '--color' = 'auto', 'always', 'never'
        '--model' = '20b', '120b', 'demo'
        '--effort' = 'none', 'low', 'medium', 'high'
        '--dtype' = 'float32', 'bfloat16'
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
        '--revision' = @()
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
        else { @('ask', 'chat', 'download', 'verify', 'list', 'remove') + $common }
    $candidates | Where-Object { $_ -clike "$wordToComplete*" } | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
}
