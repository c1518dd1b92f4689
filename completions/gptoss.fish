# Completion of gptoss for fish. Install it as share/fish/vendor_completions.d/gptoss.fish.

complete -c gptoss -f

complete -c gptoss -n __fish_use_subcommand -a ask -d 'Ask one thing'
complete -c gptoss -n __fish_use_subcommand -a bench -d 'Measure how fast a model is here'
complete -c gptoss -n __fish_use_subcommand -a chat -d 'Talk with the model'

complete -c gptoss -s v -l verbose -d 'Say what the program does'
complete -c gptoss -s q -l quiet -d 'No notices and no progress'
complete -c gptoss -l color -x -a 'auto always never' -d 'Colour on stderr'
complete -c gptoss -l debug -d 'Show where in the program an error arose'
complete -c gptoss -s V -l version -d 'Print the version'
complete -c gptoss -s h -l help -d 'Show help'

set -l turn '__fish_seen_subcommand_from ask chat'
complete -c gptoss -n $turn -s m -l model -x -a '20b 120b demo (__fish_complete_directories)' -d 'Which model answers'
complete -c gptoss -n $turn -s e -l effort -x -a 'none low medium high' -d 'How long it reasons'
complete -c gptoss -n $turn -s s -l instructions -r -d 'What it is told to heed, or @FILE'
complete -c gptoss -n $turn -s t -l temperature -x -d '0 is greedy'
complete -c gptoss -n $turn -l top-p -x -d 'Draw from the likeliest tokens of this weight'
complete -c gptoss -n $turn -l top-k -x -d 'Draw from this many of the likeliest tokens'
complete -c gptoss -n $turn -l seed -x -d 'The same draws every time'
complete -c gptoss -n $turn -l max-tokens -x -d 'Cut a turn short after this many'
complete -c gptoss -n $turn -l think-budget -x -d 'Answer after this many tokens of reasoning'
complete -c gptoss -n $turn -l free-headers -d 'Let the model write its headers as it likes'
complete -c gptoss -n $turn -l context -x -d 'Most tokens of a conversation'
complete -c gptoss -n $turn -l dtype -x -a 'float32 bfloat16' -d 'The arithmetic it runs in'
complete -c gptoss -n $turn -l no-prefix-cache -d 'Read the first messages anew in every chat'
complete -c gptoss -n $turn -l reasoning -x -a 'show hide' -d 'Whether its reasoning is shown'

set -l ask '__fish_seen_subcommand_from ask'
complete -c gptoss -n $ask -l efforts -x -a 'low,medium,high none,low,medium,high' -d 'Answer at each of these efforts'
complete -c gptoss -n $ask -l json -d 'With --efforts: JSON, on a terminal too'

set -l bench '__fish_seen_subcommand_from bench'
complete -c gptoss -n $bench -a '20b 120b demo (__fish_complete_directories)'
complete -c gptoss -n $bench -l prompt -x -d 'Tokens to read'
complete -c gptoss -n $bench -l generate -x -d 'Tokens to decode'
complete -c gptoss -n $bench -l repeat -x -d 'Repetitions after one to warm up'
complete -c gptoss -n $bench -l json -d 'JSON, on a terminal too'

set -l runs '__fish_seen_subcommand_from ask chat bench'
complete -c gptoss -n $runs -l dense -x -a 'bf16 int8' -d 'Attention and unembedding as they are, or smaller'
complete -c gptoss -n $runs -l threads -x -d 'Threads; else one for each core'
