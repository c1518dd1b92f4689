# Completion of gptoss for fish. Install it as share/fish/vendor_completions.d/gptoss.fish.

complete -c gptoss -f

complete -c gptoss -n __fish_use_subcommand -a ask -d 'Ask one thing'
complete -c gptoss -n __fish_use_subcommand -a chat -d 'Talk with the model'
complete -c gptoss -n __fish_use_subcommand -a plan -d 'Tell how a model would run'
complete -c gptoss -n __fish_use_subcommand -a doctor -d 'Look at what gptoss needs'

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
complete -c gptoss -n $turn -l dtype -x -a 'float32 bfloat16' -d 'The arithmetic it runs in'
complete -c gptoss -n $turn -l reasoning -x -a 'show hide' -d 'Whether its reasoning is shown'

set -l ask '__fish_seen_subcommand_from ask'
complete -c gptoss -n $ask -l efforts -x -a 'low,medium,high none,low,medium,high' -d 'Answer at each of these efforts'
complete -c gptoss -n $ask -l json -d 'With --efforts: JSON, on a terminal too'

set -l place '__fish_seen_subcommand_from ask chat plan'
complete -c gptoss -n $place -l context -x -d 'Most tokens of a conversation'
complete -c gptoss -n $place -l execution -x -a 'auto mxfp4 offload cpu' -d 'Where the weights lie'
complete -c gptoss -n $place -l device -x -a 'auto cpu cuda' -d 'What computes'

set -l plan '__fish_seen_subcommand_from plan'
complete -c gptoss -n $plan -a '20b 120b (__fish_complete_directories)' -d 'Which model to plan for'
complete -c gptoss -n $plan -l gpu-memory -x -d 'As if a GPU had so much to give'
complete -c gptoss -n $plan -l ram -x -d 'As if the machine had so much memory'
complete -c gptoss -n '__fish_seen_subcommand_from plan doctor' -l json -d 'One JSON object, on a terminal too'
