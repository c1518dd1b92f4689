# Completion of gptoss for fish. Install it as share/fish/vendor_completions.d/gptoss.fish.

complete -c gptoss -f

# The values of a model: a name, an installed checkpoint, any other folder.
function __gptoss_models
    set -l data $HOME/.local/share/gptoss
    set -q XDG_DATA_HOME; and set data $XDG_DATA_HOME/gptoss
    set -q GPTOSS_HOME; and set data $GPTOSS_HOME/data
    for folder in $data/checkpoints/*/
        string replace -- -- / (basename $folder) # the folder of OWNER/NAME
    end
    __fish_complete_directories
end

function __gptoss_templates
    set -l config $HOME/.config/gptoss
    set -q XDG_CONFIG_HOME; and set config $XDG_CONFIG_HOME/gptoss
    set -q GPTOSS_HOME; and set config $GPTOSS_HOME/config
    for file in $config/templates/*.txt
        basename $file .txt
    end
end

# Files after an @.
function __gptoss_texts
    set -l token (string replace -r '^--instructions=' '' -- (commandline -ct))
    if string match -q '@*' -- $token
        __fish_complete_path (string sub -s 2 -- $token) | string replace -r '^' '@'
    end
end

complete -c gptoss -n __fish_use_subcommand -a ask -d 'Ask one question'
complete -c gptoss -n __fish_use_subcommand -a chat -d 'Chat with a model'
complete -c gptoss -n __fish_use_subcommand -a download -d 'Download a model and verify it'
complete -c gptoss -n __fish_use_subcommand -a convert -d 'Convert a fine-tuned model that was saved in bf16'
complete -c gptoss -n __fish_use_subcommand -a verify -d 'Verify an installed model, offline'
complete -c gptoss -n __fish_use_subcommand -a list -d 'List known and installed models'
complete -c gptoss -n __fish_use_subcommand -a remove -d 'Delete a downloaded model'
complete -c gptoss -n __fish_use_subcommand -a plan -d 'Show how a model would run'
complete -c gptoss -n __fish_use_subcommand -a doctor -d 'Check this machine'
complete -c gptoss -n __fish_use_subcommand -a bench -d 'Measure the speed of a model'
complete -c gptoss -n __fish_use_subcommand -a serve -d 'Serve the API of OpenAI'
complete -c gptoss -n __fish_use_subcommand -a compare -d 'Compare architectures'
complete -c gptoss -n __fish_use_subcommand -a inspect -d 'Show the parts of a model'
complete -c gptoss -n __fish_use_subcommand -a evaluate -d 'Measure accuracy against effort'
complete -c gptoss -n __fish_use_subcommand -a conversations -d 'List, search, export and remove conversations'
complete -c gptoss -n __fish_use_subcommand -a cache -d 'List or delete KV caches and 8-bit weights'
complete -c gptoss -n __fish_use_subcommand -a config -d 'Show the settings, or change them'
complete -c gptoss -n __fish_use_subcommand -a completions -d 'Print the completion script of a shell'

complete -c gptoss -s v -l verbose -d 'Log the steps of the program on stderr'
complete -c gptoss -s q -l quiet -d 'No notices and no progress'
complete -c gptoss -l color -x -a 'auto always never' -d 'Colour on stderr'
complete -c gptoss -l debug -d 'Log details, and show the traceback of an error'
complete -c gptoss -s V -l version -d 'Print the version'
complete -c gptoss -s h -l help -d 'Show help'

set -l turn '__fish_seen_subcommand_from ask chat evaluate'
complete -c gptoss -n $turn -s m -l model -x -a '20b 120b safeguard safeguard-120b demo (__gptoss_models)' -d 'Model that answers'
complete -c gptoss -n $turn -s e -l effort -x -a 'none low medium high' -d 'Amount of reasoning'
complete -c gptoss -n $turn -s s -l instructions -x -a '(__gptoss_texts)' -d 'Developer instructions for the model, or @FILE'
complete -c gptoss -n $turn -s t -l temperature -x -d 'Randomness; 0 takes the likeliest token'
complete -c gptoss -n $turn -l top-p -x -d 'Only the likeliest tokens that make up this share'
complete -c gptoss -n $turn -l top-k -x -d 'Only this many of the likeliest tokens'
complete -c gptoss -n $turn -l date -x -d 'Date that the model is told'
complete -c gptoss -n $turn -l seed -x -d 'The same seed repeats an answer'
complete -c gptoss -n $turn -l max-tokens -x -d 'End the turn after this many tokens'
complete -c gptoss -n $turn -l think-budget -x -d 'End the reasoning after this many tokens'
complete -c gptoss -n $turn -l free-headers -d 'Do not constrain the message headers'
complete -c gptoss -n $turn -l dtype -x -a 'float32 bfloat16' -d 'Floating-point type of the computation'
complete -c gptoss -n $turn -l no-prefix-cache -d 'Do not reuse cached work for the first messages'
complete -c gptoss -n '__fish_seen_subcommand_from ask chat evaluate cache serve' -l kv-limit -x -d 'Disk space for KV caches'
complete -c gptoss -n $turn -l reasoning -x -a 'show collapse hide' -d 'Show, collapse or hide the reasoning'

set -l keyed '__fish_seen_subcommand_from ask chat plan doctor bench evaluate'
set -l server '__fish_seen_subcommand_from ask chat plan doctor bench serve evaluate'
complete -c gptoss -n $server -l server -x -d 'Let the server at this address answer'
complete -c gptoss -n $server -l server-model -x -d 'Model of a server that has several'
complete -c gptoss -n $server -l server-api -x -a 'vllm sglang llama' -d 'API of the server'
complete -c gptoss -n $keyed -l api-key-file -r -F -d 'File with the key for the server'

complete -c gptoss -n '__fish_seen_subcommand_from ask chat plan serve evaluate' -l context -x -d 'Maximum tokens of a conversation'
set -l placement '__fish_seen_subcommand_from ask chat plan bench serve evaluate'
complete -c gptoss -n $placement -l execution -x -a 'auto mxfp4 offload cpu' -d 'Weights on the GPU, experts in host memory, or the CPU'
complete -c gptoss -n $placement -l device -x -a 'auto cpu cuda' -d 'Device that computes'

set -l speed '__fish_seen_subcommand_from ask chat bench serve evaluate'
complete -c gptoss -n $speed -l gpu-memory -x -d 'Maximum GPU memory to use'
complete -c gptoss -n '__fish_seen_subcommand_from ask chat bench serve plan evaluate' -l activations -x -a 'int16 int8' -d 'Activations for the experts on the CPU'
complete -c gptoss -n '__fish_seen_subcommand_from ask chat bench serve plan evaluate' -l dense -x -a 'bf16 int8' -d 'Attention and unembedding weights'
complete -c gptoss -n $speed -l threads -x -d 'CPU threads; by default one per core'

set -l either '__fish_seen_subcommand_from ask chat'
complete -c gptoss -n $either -l template -x -a '(__gptoss_templates)' -d 'Put the prompt into a text of the settings folder'
complete -c gptoss -n $either -l param -x -d 'With --template, the value of a variable'

set -l ask '__fish_seen_subcommand_from ask'
complete -c gptoss -n $ask -l logprobs -x -d 'In JSON, the log probability of each token'
complete -c gptoss -n $ask -l efforts -x -a 'low,medium,high none,low,medium,high' -d 'Answer once at each effort'
complete -c gptoss -n $ask -s f -l file -r -F -d 'Text file to ask about'
complete -c gptoss -n $ask -l json -d 'Print one JSON object instead of the text'
complete -c gptoss -n $ask -l stream-json -d 'Print JSON lines as the answer is generated'
complete -c gptoss -n $ask -l no-stream -d 'Print the answer only when it is complete'
complete -c gptoss -n $ask -s x -l extract -d 'Only the first code block'
complete -c gptoss -n $ask -s o -l output -r -F -d 'Write the answer to a file, all of it or nothing'
complete -c gptoss -n $ask -l timeout -x -d 'Stop the answer after this many seconds'
complete -c gptoss -n $ask -l stop -x -d 'End the answer before this text'
complete -c gptoss -n $ask -l schema -r -F -d 'JSON Schema that the answer must match'
complete -c gptoss -n $ask -l choice -x -d 'The answer must be one of these'

set -l chat '__fish_seen_subcommand_from chat'
complete -c gptoss -n $chat -s f -l file -r -F -d 'Text file for the first message'
complete -c gptoss -n $chat -l plain -d 'No Markdown and no redrawing'
complete -c gptoss -n $chat -l vi -d 'Edit messages with the keys of vi'

complete -c gptoss -n $chat -l at -x -d 'As it was after this message of yours; a copy'
complete -c gptoss -n $chat -l fork -d 'Continue a copy of the conversation'
complete -c gptoss -n $ask -l title -x -d 'Title of the saved conversation'
complete -c gptoss -n $turn -s c -l continue -d 'Continue the conversation that was updated last'
complete -c gptoss -n $turn -l resume -x -d 'Continue the conversation with this id or title'
complete -c gptoss -n $turn -l save -d 'Keep the conversation'
complete -c gptoss -n $turn -l no-save -d 'Write nothing'
complete -c gptoss -n $turn -l save-reasoning -d 'Keep the reasoning when saving'
complete -c gptoss -n $turn -l no-save-reasoning -d 'Leave the reasoning out when saving'

set -l inner list show search export import rename rm prune backup path check
set -l conversations '__fish_seen_subcommand_from conversations'
complete -c gptoss -n "$conversations; and not __fish_seen_subcommand_from $inner" -a "$inner"
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from list search" -s n -x -d 'At most so many'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from list export rm" -l all -d 'All conversations'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from list show search" -l json -d 'Print one JSON object'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from show search export" -l reasoning -d 'The reasoning too'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from show" -l raw -d 'The next prompt with its markup'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from show" -l branch -x -d 'The branch with this number'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from search" -l latest -d 'The newest first'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from export" -s f -l format -x -a 'md json jsonl chatgpt' -d 'Format'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from export" -s o -l output -r -F -d 'File to write'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from export" -l force -d 'Replace a file that exists'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from rm prune" -s y -l yes -d 'Do not ask'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from prune" -l older-than -x -a '30d 90d 1y' -d 'Not updated for so long'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from prune" -l keep -x -d 'Keep so many that were updated last'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from prune" -l dry-run -d 'List them, and remove nothing'
complete -c gptoss -n "$conversations; and __fish_seen_subcommand_from import backup" -F

complete -c gptoss -n '__fish_seen_subcommand_from download remove' -a '20b 120b safeguard safeguard-120b'
complete -c gptoss -n '__fish_seen_subcommand_from verify plan bench' -a '20b 120b safeguard safeguard-120b demo (__gptoss_models)'
complete -c gptoss -n '__fish_seen_subcommand_from download remove cache' -s y -l yes -d 'Do not ask'
complete -c gptoss -n '__fish_seen_subcommand_from download convert verify list plan doctor bench compare inspect evaluate cache' -l json -d 'Print one JSON object on stdout'

set -l download '__fish_seen_subcommand_from download'
complete -c gptoss -n $download -l revision -x -d 'A branch, tag or commit of the repository'
complete -c gptoss -n $download -l dry-run -d 'Show the missing files, and download nothing'
complete -c gptoss -n '__fish_seen_subcommand_from convert' -l exact -d 'Fail if a value would be rounded'
complete -c gptoss -n '__fish_seen_subcommand_from convert' -l dry-run -d 'Show the sizes, and convert nothing'
complete -c gptoss -n '__fish_seen_subcommand_from convert' -a '(__fish_complete_directories)'
complete -c gptoss -n '__fish_seen_subcommand_from verify' -l quick -d 'Check sizes, headers and shapes only'
complete -c gptoss -n '__fish_seen_subcommand_from remove' -l partial -d 'Delete only the rest of a broken download'

set -l plan '__fish_seen_subcommand_from plan'
complete -c gptoss -n $plan -l gpu-memory -x -d 'Pretend a GPU with this much free memory'
complete -c gptoss -n $plan -l ram -x -d 'Pretend that the machine has this much memory'
complete -c gptoss -n $plan -l conversations -x -d 'Plan a server that keeps so many conversations'

set -l bench '__fish_seen_subcommand_from bench'
complete -c gptoss -n $bench -l context -x -d 'Tokens that are in the cache before; not read'
complete -c gptoss -n $bench -l prompt -x -d 'Tokens to prefill'
complete -c gptoss -n $bench -l generate -x -d 'Tokens to decode'
complete -c gptoss -n $bench -l repeat -x -d 'Repetitions after one to warm up'
complete -c gptoss -n $bench -l kernels -d 'Also time each operation of a token'
complete -c gptoss -n $bench -l random-weights -r -a '20b 120b' -d 'Measure random weights of this shape'
complete -c gptoss -n '__fish_seen_subcommand_from doctor' -l gpu -d 'Check every kernel of the GPU'

set -l serve '__fish_seen_subcommand_from serve'
complete -c gptoss -n $serve -s m -l model -x -a '20b 120b demo (__gptoss_models)' -d 'Model to serve'
complete -c gptoss -n $serve -l host -x -d 'Address to listen on'
complete -c gptoss -n $serve -l port -x -d 'Port to listen on'
complete -c gptoss -n $serve -l server-key-file -r -F -d 'File with the key for --server'
complete -c gptoss -n $serve -l api-key-file -r -F -d 'File with the key that clients must send'
complete -c gptoss -n $serve -s e -l effort -x -a 'none low medium high' -d 'Effort of requests that name none'
complete -c gptoss -n $serve -l queue -x -d 'Requests that may wait'
complete -c gptoss -n $serve -l conversations -x -d 'Conversations whose KV caches are kept'
complete -c gptoss -n $serve -l batch -x -d 'Answers that are written at a time'
complete -c gptoss -n $serve -l idle-unload -x -d 'Release the model after so long without a request'
complete -c gptoss -n $serve -l reasoning-field -x -a 'reasoning reasoning_content none' -d 'Field that holds the reasoning'
complete -c gptoss -n $serve -l allow-origin -x -d 'Web page that may use the server'

complete -c gptoss -n '__fish_seen_subcommand_from compare inspect' -a '20b 120b safeguard safeguard-120b demo gpt2-xl qwen3-30b-a3b qwen3-235b-a22b (__gptoss_models)'
set -l compare '__fish_seen_subcommand_from compare'
complete -c gptoss -n $compare -l by -x -a 'depth experts size memory compute' -d 'Show only the rows about this'
complete -c gptoss -n $compare -l context -x -d 'Tokens that cache and attention are computed for'
complete -c gptoss -n $compare -l benchmarks -d 'Show published results with their sources'
complete -c gptoss -n $compare -l explain -x -d 'Show the formula and operands of a figure'

set -l inspect '__fish_seen_subcommand_from inspect'
complete -c gptoss -n $inspect -l diagram -d 'Draw the model as a diagram'
complete -c gptoss -n $inspect -l tensors -d 'List the tensors of the checkpoint'
complete -c gptoss -n $inspect -l sinks -d 'Show the learned sink logits'
complete -c gptoss -n $inspect -l rope -d 'Show the RoPE periods with and without YaRN'
complete -c gptoss -n $inspect -l experiment -x -a 'k-bias' -d 'Measure the effect of the key bias'
complete -c gptoss -n $inspect -l prompt -x -d 'Show the token ids of the prompt that a text becomes'

set -l evaluate '__fish_seen_subcommand_from evaluate'
complete -c gptoss -n $evaluate -F
complete -c gptoss -n $evaluate -l efforts -x -a 'low,medium,high none,low,medium,high' -d 'Efforts to ask at'
complete -c gptoss -n $evaluate -l repeat -x -d 'Answers to each question'
complete -c gptoss -n $evaluate -s o -l output -r -F -d 'File of results'

complete -c gptoss -n '__fish_seen_subcommand_from cache' -a 'list clear'

set -l config '__fish_seen_subcommand_from config'
complete -c gptoss -n "$config; and not __fish_seen_subcommand_from show path edit set" -a 'show path edit set'
complete -c gptoss -n "$config; and __fish_seen_subcommand_from set" -a 'color history.save history.reasoning history.kv-limit history.ask model effort instructions temperature top-p top-k date seed'
complete -c gptoss -n "$config; and __fish_seen_subcommand_from set" -a 'max-tokens think-budget context execution device gpu-memory dtype dense activations threads reasoning timeout'
complete -c gptoss -n "$config; and __fish_seen_subcommand_from set" -a 'server.url server.model server.api server.key-file'
complete -c gptoss -n $config -l json -d 'With show: print one JSON object'
complete -c gptoss -n '__fish_seen_subcommand_from completions' -a 'bash zsh fish powershell'
