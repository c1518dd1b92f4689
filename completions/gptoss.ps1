# Completion of gptoss for PowerShell. Dot-source it from $PROFILE.

Register-ArgumentCompleter -Native -CommandName gptoss -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)

    $common = '-v', '--verbose', '-q', '--quiet', '--color', '--debug', '-V', '--version', '-h', '--help'
    $server = '--server', '--server-model', '--server-api', '--api-key-file'
    $turn = '-m', '--model', '-e', '--effort', '-s', '--instructions', '-t', '--temperature', '--top-p', '--top-k',
        '--date', '--seed', '--max-tokens', '--think-budget', '--free-headers', '--context', '--execution', '--device',
        '--gpu-memory', '--dtype', '--dense', '--activations', '--threads', '--no-prefix-cache', '--kv-limit', '--reasoning'
    $template = '--template', '--param'
    $turn += $server
    $ask = '-f', '--file', '--json', '--stream-json', '--no-stream', '-x', '--extract', '-o', '--output', '--timeout',
        '--stop', '--schema', '--choice', '--efforts', '--logprobs', '--title'
    $history = '-c', '--continue', '--resume', '--save', '--no-save', '--save-reasoning', '--no-save-reasoning'
    $data = if ($env:GPTOSS_HOME) { Join-Path $env:GPTOSS_HOME 'data' }
        elseif ($env:XDG_DATA_HOME) { Join-Path $env:XDG_DATA_HOME 'gptoss' }
        elseif ($env:LOCALAPPDATA) { Join-Path $env:LOCALAPPDATA 'gptoss' }
        else { Join-Path $HOME '.local/share/gptoss' }
    $installed = @(Get-ChildItem (Join-Path $data 'checkpoints') -Directory -Name -ErrorAction SilentlyContinue)
    $configFolder = if ($env:GPTOSS_HOME) { Join-Path $env:GPTOSS_HOME 'config' }
        elseif ($env:XDG_CONFIG_HOME) { Join-Path $env:XDG_CONFIG_HOME 'gptoss' }
        elseif ($env:LOCALAPPDATA) { Join-Path $env:LOCALAPPDATA 'gptoss' }
        else { Join-Path $HOME '.config/gptoss' }
    $templates = @(Get-ChildItem (Join-Path $configFolder 'templates') -Filter '*.txt' -ErrorAction SilentlyContinue |
        ForEach-Object { $_.BaseName })
    $installed = @($installed | ForEach-Object { ([regex]'--').Replace($_, '/', 1) })  # the folder of OWNER/NAME
    $models = @('20b', '120b', 'safeguard', 'safeguard-120b', 'demo') + $installed
    $known = @('gpt2-xl', 'qwen3-30b-a3b', 'qwen3-235b-a22b')
    $options = @{
        'ask' = $ask + $template + $history + $turn + $common
        'chat' = @('-f', '--file', '--plain', '--vi', '--at', '--fork') + $template + $history + $turn + $common
        'download' = @('20b', '120b', 'safeguard', 'safeguard-120b', '--revision', '--dry-run', '--json', '-y', '--yes') + $common
        'convert' = @('--exact', '--dry-run', '--json') + $common
        'verify' = $models + @('--quick', '--json') + $common
        'list' = @('--json') + $common
        'remove' = @('20b', '120b', 'safeguard', 'safeguard-120b', '--partial', '-y', '--yes') + $common
        'plan' = $models + @('--gpu-memory', '--ram', '--context', '--conversations', '--execution', '--device',
            '--dense', '--activations', '--json') + $server + $common
        'doctor' = @('--gpu', '--json') + $server + $common
        'bench' = $models + @('--context', '--prompt', '--generate', '--repeat', '--kernels', '--random-weights', '--execution', '--device', '--gpu-memory',
            '--dense', '--activations', '--threads', '--json') + $server + $common
        'serve' = @('-m', '--model', '--host', '--port', '--api-key-file', '-e', '--effort', '--queue', '--conversations',
            '--batch', '--idle-unload', '--kv-limit', '--reasoning-field', '--allow-origin', '--context', '--execution', '--device',
            '--gpu-memory', '--dense', '--activations', '--threads', '--server', '--server-model', '--server-api', '--server-key-file') + $common
        'compare' = $models + $known + @('--by', '--context', '--benchmarks', '--explain', '--json') + $common
        'inspect' = $models + $known + @('--diagram', '--tensors', '--sinks', '--rope', '--experiment', '--prompt', '--json') + $common
        'evaluate' = @('--efforts', '--repeat', '-o', '--output', '--json') + $turn + $common
        'conversations' = @('list', 'show', 'search', 'export', 'import', 'rename', 'rm', 'prune', 'backup', 'path', 'check',
            '--older-than', '--keep', '--dry-run', '-n', '--all', '--json', '--reasoning', '--raw', '--branch', '--latest', '-f', '--format', '-o', '--output',
            '--force', '-y', '--yes') + $common
        'cache' = @('list', 'clear', '--json', '-y', '--yes', '--kv-limit') + $common
        'config' = @('show', 'path', 'edit', 'set', '--json') + $common
        'completions' = @('bash', 'zsh', 'fish', 'powershell') + $common
    }
    $values = @{
        '--color' = 'auto', 'always', 'never'
        '--model' = $models
        '--effort' = 'none', 'low', 'medium', 'high'
        '--execution' = 'auto', 'mxfp4', 'offload', 'cpu'
        '--device' = 'auto', 'cpu', 'cuda'
        '--dtype' = 'float32', 'bfloat16'
        '--dense' = 'bf16', 'int8'
        '--activations' = 'int16', 'int8'
        '--reasoning' = 'show', 'collapse', 'hide'
        '--reasoning-field' = 'reasoning', 'reasoning_content', 'none'
        '--by' = 'depth', 'experts', 'size', 'memory', 'compute'
        '--experiment' = , 'k-bias'
        '--format' = 'md', 'json', 'jsonl', 'chatgpt'
        '--template' = $templates
        '--param' = @()
        '--server-api' = 'vllm', 'sglang', 'llama'
        '--server' = @()
        '--server-model' = @()
        '--resume' = @()
        '--title' = @()
        '--at' = @()
        '--branch' = @()
        '--explain' = @()
        '--instructions' = @()
        '--temperature' = @()
        '--top-p' = @()
        '--top-k' = @()
        '--date' = @()
        '--seed' = @()
        '--max-tokens' = @()
        '--think-budget' = @()
        '--context' = @()
        '--efforts' = @()
        '--logprobs' = @()
        '--timeout' = @()
        '--stop' = @()
        '--choice' = @()
        '--threads' = @()
        '--revision' = @()
        '--gpu-memory' = @()
        '--kv-limit' = @()
        '--ram' = @()
        '--prompt' = @()
        '--generate' = @()
        '--repeat' = @()
        '--host' = @()
        '--port' = @()
        '--queue' = @()
        '--allow-origin' = @()
    }
    # Options that take a file have no candidates here, so that PowerShell offers files.
    foreach ($option in '--file', '--output', '--schema', '--api-key-file', '--server-key-file') { $values[$option] = @() }
    $longForms = @{
        '-m' = '--model'; '-e' = '--effort'; '-s' = '--instructions'; '-t' = '--temperature'
        '-f' = '--file'; '-o' = '--output'
    }

    $before = @($commandAst.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursorPosition } |
        ForEach-Object { $_.Extent.Text })
    $command = $before | Select-Object -Skip 1 | Where-Object { $options.ContainsKey($_) } | Select-Object -First 1
    $previous = if ($before.Count -gt 1) { $before[-1] } else { '' }
    # -ceq: a hashtable's keys are not case-sensitive, and -V is not -v.
    $long = $longForms.Keys | Where-Object { $_ -ceq $previous } | ForEach-Object { $longForms[$_] }
    if ($long) { $previous = $long }

    $settings = 'color', 'history.save', 'history.reasoning', 'history.kv-limit', 'history.ask', 'model', 'effort', 'instructions',
        'temperature', 'top-p', 'top-k', 'date', 'seed', 'max-tokens', 'think-budget', 'context', 'execution',
        'device', 'gpu-memory', 'dtype', 'dense', 'activations', 'threads', 'reasoning', 'timeout',
        'server.url', 'server.model', 'server.api', 'server.key-file'
    $candidates = if ($command -eq 'config' -and $previous -eq 'set') { $settings }
        elseif ($values.ContainsKey($previous)) { $values[$previous] }
        elseif ($command) { $options[$command] }
        else { @($options.Keys) + $common }
    $candidates | Where-Object { $_ -clike "$wordToComplete*" } | ForEach-Object {
        [System.Management.Automation.CompletionResult]::new($_, $_, 'ParameterValue', $_)
    }
}
