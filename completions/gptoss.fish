# Completion of gptoss for fish. Install it as share/fish/vendor_completions.d/gptoss.fish.

complete -c gptoss -f

# What may be given as a model: a name, an installed checkpoint, any other folder.
function __gptoss_models
    set -l data $HOME/.local/share/gptoss
    set -q XDG_DATA_HOME; and set data $XDG_DATA_HOME/gptoss
    set -q GPTOSS_HOME; and set data $GPTOSS_HOME/data
    for folder in $data/checkpoints/*/
        basename $folder
    end
    __fish_complete_directories
end

complete -c gptoss -n __fish_use_subcommand -a ask -d 'Ask one thing'
complete -c gptoss -n __fish_use_subcommand -a chat -d 'Talk with the model'
complete -c gptoss -n __fish_use_subcommand -a download -d 'Get a checkpoint and prove it'
complete -c gptoss -n __fish_use_subcommand -a verify -d 'Prove a checkpoint, offline'
complete -c gptoss -n __fish_use_subcommand -a list -d 'List the known and the installed models'
complete -c gptoss -n __fish_use_subcommand -a remove -d 'Delete the files of a model'
complete -c gptoss -n __fish_use_subcommand -a plan -d 'Tell how a model would run'
complete -c gptoss -n __fish_use_subcommand -a doctor -d 'Look at what gptoss needs'
complete -c gptoss -n __fish_use_subcommand -a bench -d 'Measure how fast a model is here'
complete -c gptoss -n __fish_use_subcommand -a config -d 'Show or edit the standing preferences'
complete -c gptoss -n __fish_use_subcommand -a completions -d 'Print a completion script'

complete -c gptoss -s v -l verbose -d 'Say what the program does'
complete -c gptoss -s q -l quiet -d 'No notices and no progress'
complete -c gptoss -l color -x -a 'auto always never' -d 'Colour on stderr'
complete -c gptoss -l debug -d 'Show where in the program an error arose'
complete -c gptoss -s V -l version -d 'Print the version'
complete -c gptoss -s h -l help -d 'Show help'

set -l turn '__fish_seen_subcommand_from ask chat'
complete -c gptoss -n $turn -s m -l model -x -a '20b 120b demo (__gptoss_models)' -d 'Which model answers'
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
complete -c gptoss -n $turn -l no-prefix-cache -d 'Read the first messages anew in every chat'
complete -c gptoss -n $turn -l reasoning -x -a 'show collapse hide' -d 'Whether its reasoning is shown'

complete -c gptoss -n '__fish_seen_subcommand_from ask chat plan' -l context -x -d 'Most tokens of a conversation'
set -l place '__fish_seen_subcommand_from ask chat plan bench'
complete -c gptoss -n $place -l execution -x -a 'auto mxfp4 offload cpu' -d 'Where the weights lie'
complete -c gptoss -n $place -l device -x -a 'auto cpu cuda' -d 'What computes'

set -l speed '__fish_seen_subcommand_from ask chat bench'
complete -c gptoss -n $speed -l gpu-memory -x -d 'The most to use of the memory of a GPU'
complete -c gptoss -n '__fish_seen_subcommand_from ask chat bench plan' -l activations -x -a 'int16 int8' -d 'What the CPU multiplies experts by'
complete -c gptoss -n '__fish_seen_subcommand_from ask chat bench plan' -l dense -x -a 'bf16 int8' -d 'Attention and unembedding as they are, or smaller'
complete -c gptoss -n $speed -l threads -x -d 'Threads; else one for each core'

set -l ask '__fish_seen_subcommand_from ask'
complete -c gptoss -n $ask -l efforts -x -a 'low,medium,high none,low,medium,high' -d 'Answer at each of these efforts'
complete -c gptoss -n $ask -s f -l file -r -F -d 'A text file to ask about'
complete -c gptoss -n $ask -l json -d 'One JSON object instead of the text'
complete -c gptoss -n $ask -l stream-json -d 'JSON lines, as the answer is made'
complete -c gptoss -n $ask -l no-stream -d 'Print the answer when it is whole'
complete -c gptoss -n $ask -s x -l extract -d 'Only the first code block'
complete -c gptoss -n $ask -s o -l output -r -F -d 'Write to a file, all of it or nothing'
complete -c gptoss -n $ask -l timeout -x -d 'Cut the answer short after this long'
complete -c gptoss -n $ask -l stop -x -d 'End the answer before this text'
complete -c gptoss -n $ask -l schema -r -F -d 'The answer is JSON of this JSON Schema'
complete -c gptoss -n $ask -l choice -x -d 'The answer is one of these'

set -l chat '__fish_seen_subcommand_from chat'
complete -c gptoss -n $chat -s f -l file -r -F -d 'A text file that goes along'
complete -c gptoss -n $chat -l plain -d 'No Markdown and no redrawing'
complete -c gptoss -n $chat -l vi -d "Edit messages with vi's keys"

complete -c gptoss -n '__fish_seen_subcommand_from download remove' -a '20b 120b'
complete -c gptoss -n '__fish_seen_subcommand_from verify plan bench' -a '20b 120b demo (__gptoss_models)'
complete -c gptoss -n '__fish_seen_subcommand_from download remove' -s y -l yes -d 'Do not ask'
complete -c gptoss -n '__fish_seen_subcommand_from download verify list plan doctor bench' -l json -d 'One JSON object'

set -l download '__fish_seen_subcommand_from download'
complete -c gptoss -n $download -l revision -x -d 'A branch, tag or commit of the repository'
complete -c gptoss -n $download -l dry-run -d 'Say what would be fetched, and fetch nothing'
complete -c gptoss -n '__fish_seen_subcommand_from verify' -l quick -d 'Sizes, headers and shapes only'
complete -c gptoss -n '__fish_seen_subcommand_from remove' -l partial -d 'Only what a broken download left'

set -l plan '__fish_seen_subcommand_from plan'
complete -c gptoss -n $plan -l gpu-memory -x -d 'As if a GPU had so much to give'
complete -c gptoss -n $plan -l ram -x -d 'As if the machine had so much memory'

set -l bench '__fish_seen_subcommand_from bench'
complete -c gptoss -n $bench -l prompt -x -d 'Tokens to read'
complete -c gptoss -n $bench -l generate -x -d 'Tokens to decode'
complete -c gptoss -n $bench -l repeat -x -d 'Repetitions after one to warm up'
complete -c gptoss -n $bench -l kernels -d 'Also time each operation of a token'

set -l config '__fish_seen_subcommand_from config'
complete -c gptoss -n $config -a 'show path edit'
complete -c gptoss -n $config -l json -d 'With show: one JSON object'
complete -c gptoss -n '__fish_seen_subcommand_from completions' -a 'bash zsh fish powershell'
