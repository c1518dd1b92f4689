# Completion of gptoss for fish. Install it as share/fish/vendor_completions.d/gptoss.fish.

complete -c gptoss -f

complete -c gptoss -n __fish_use_subcommand -a ask -d 'Ask one thing'
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
complete -c gptoss -n $turn -l reasoning -x -a 'show collapse hide' -d 'Whether its reasoning is shown'

set -l ask '__fish_seen_subcommand_from ask'
complete -c gptoss -n $ask -l efforts -x -a 'low,medium,high none,low,medium,high' -d 'Answer at each of these efforts'
complete -c gptoss -n $ask -l json -d 'With --efforts: JSON, on a terminal too'

set -l chat '__fish_seen_subcommand_from chat'
complete -c gptoss -n $chat -s f -l file -r -F -d 'A text file that goes along'
complete -c gptoss -n $chat -l plain -d 'No Markdown and no redrawing'
complete -c gptoss -n $chat -l vi -d "Edit messages with vi's keys"
