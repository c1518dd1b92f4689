"""What the demo model knows: questions, held-out questions and answers. Plain data; nothing here is computed.

A question is a template: `{a|b}` picks one, `<HOW>` and the like stand for a list in FRAMES. `held_out` questions are
never trained on, in any spelling; the evaluation uses only them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing the demo can say. `about` and `point` are what its reasoning is made of; `proof` must be in a right answer."""

    kind: str
    about: str
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    answer: str
    point: str
    proof: str


FRAMES = {
    "HOW": "{how do i|how can i|how to|how do you|how would i|how does one|how should i|what is the command to|what command do i use to|"
    "what's the best way to|what do i type to|what do i have to do to|i want to|i'd like to|i need to|can you tell me how to|please tell me how to|"
    "tell me how to|show me how to|is there a way to|can i|can you help me|help me|could you explain how to|"
    "what is the right way to|where do i|explain how to|i don't know how to|i am trying to}",
    "WHAT": "{what is|what's|what are|explain|please explain|tell me about|describe|define|what do you know about|can you explain|"
    "could you describe|what is meant by|i don't understand|i'd like to know about|teach me about|give me a short explanation of|"
    "in simple words, what is|tell me something about|i want to learn about|what exactly is|what exactly are|and what is|explain to me}",
    "MODEL": "{the model|a model|gpt-oss|gpt-oss-20b|gpt-oss-120b|the 20b|the 120b|the 20b model|the 120b model|the real model|the big model|the small model}",
}

GUIDE = (
    Topic(
        "guide", "what gptoss is",
        ("<WHAT> gptoss", "<WHAT> this program", "<WHAT> this tool", "{what|what exactly} {is this|am i using|am i running|did i install}",
         "what does {gptoss|this program|this tool|this} do", "what is gptoss {for|good for|about|used for}", "what {can|could} i {do with|use} gptoss {for|}",
         "give me an overview of {gptoss|this program}", "{introduce|present|summarize} {gptoss|this program|this tool}", "why {should|would} i use {gptoss|this program|this tool}",
         "what kind of {program|software|tool} is {this|gptoss}", "gptoss?"),
        ("what sort of software is gptoss", "so what does this thing actually do", "in a nutshell, what is gptoss", "what would one use gptoss for", "sum up this program for me"),
        "gptoss is a terminal program for talking to OpenAI's open-weight models gpt-oss-20b and gpt-oss-120b on your own machine. Nothing you type leaves it.",
        "a terminal program for gpt-oss on your own machine", "terminal program"),
    Topic(
        "guide", "downloading a model",
        ("<HOW> {download|get|fetch|obtain|pull|install|grab|load} <MODEL>", "where {do|can|could} i {get|find|download} {the model|gpt-oss|the weights|the checkpoint|the real model|the real thing}",
         "{download|get|fetch|pull|install} {the model|gpt-oss|gpt-oss-20b|the 20b|the weights|the checkpoint|the real model}", "<HOW> {download|get|fetch} the {weights|checkpoint|files|real model|model files}",
         "how long does the download take", "how big is the download", "can the download be {resumed|stopped|interrupted|paused|continued}", "what happens if the download {stops|breaks|is interrupted|fails}",
         "which command {downloads|fetches|gets} {the model|gpt-oss|the weights}", "i want the {real|full|proper} {model|one|thing}", "<HOW> {switch to|use|run|try} the real {model|one|thing}", "download", "<HOW> download"),
        ("what should i enter to download gpt-oss-20b", "i would love to have the real weights, how", "how is the 20b fetched", "what gets me the real gpt-oss", "is it possible to resume the download later"),
        "Run `gptoss download 20b`. It fetches 13.8 GB, checks every file, and can be stopped and resumed at any time.",
        "gptoss download 20b", "gptoss download 20b"),
    Topic(
        "guide", "choosing a model",
        ("which model {should|do|can|could} i {use|choose|take|pick|run|download}", "<HOW> {choose|select|pick|change|switch} {a|the|my|another|between} {model|models}", "{what|which} models {are there|can i choose|exist|do you have|are supported|are available|does gptoss support}",
         "{20b or 120b|120b or 20b|should i take 20b or 120b|is 20b or 120b better}", "what is the difference between {20b and 120b|the two models|the models|gpt-oss-20b and gpt-oss-120b}",
         "<HOW> {use|run|choose|select|switch to} {another|a different|the other|the larger|the bigger|the smaller} model", "{compare|contrast} {the two models|20b and 120b|the models}",
         "what does {-m|the -m option|the model option} do", "which model is {better|best|larger|smaller|right for me}", "is the 120b {better|worth it}", "how {large|big} are the models", "how {large|big} is {gpt-oss-20b|gpt-oss-120b|the 120b|the 20b}"),
        ("recommend a model to me", "which of the two models suits my machine", "i can't decide between 20b and 120b", "how do i tell it which model to run", "what sizes of gpt-oss exist"),
        "gpt-oss-20b needs 13.8 GB and suits most machines; gpt-oss-120b needs 65.2 GB. Choose with `-m 20b` or `-m 120b`.",
        "20b suits most machines, -m chooses", "-m 20b"),
    Topic(
        "guide", "changing the effort",
        ("<HOW> {change|set|raise|increase|lower|reduce|control|choose|adjust|pick} the {effort|reasoning effort|effort level|amount of reasoning|thinking effort}",
         "<HOW> make {it|you|the model|gptoss} {think|reason} {more|longer|less|harder|deeper|faster}", "<WHAT> {the reasoning effort|reasoning effort|the effort option|effort|the effort levels}",
         "what does {-e|--effort|/effort|the -e option} {do|mean}", "what effort {levels|settings} are there", "what is the difference between low, medium and high {effort|}", "what does high effort {do|mean|change}",
         "can {you|it|the model} {think|reason} {more|longer|harder|less}", "which effort should i {use|choose|pick}", "{more|less} {reasoning|thinking} please", "<HOW> use {high|low|medium} {effort|reasoning|reasoning effort}",
         "{set|change} the effort {to high|to low|to medium|}", "does {more|higher} effort {help|give better answers}"),
        ("it should think longer, how do i do that", "where is the setting for reasoning effort", "let it reason harder please", "what are the possible effort values", "how do i turn the thinking down"),
        "Use `-e low`, `-e medium` or `-e high`: higher effort means longer reasoning. In a chat, type `/effort high`.",
        "-e low, medium or high", "-e high"),
    Topic(
        "guide", "continuing a conversation",
        ("<HOW> {continue|resume|reopen|pick up|go on with|return to|carry on} {a|the|my|the last|my last|an old|the previous|an earlier} {conversation|chat|session|discussion}",
         "{continue|resume} {the|my|the last|my last|the previous} {conversation|chat|session}", "can i {continue|resume|go back to} {yesterday's|an old|the last|a previous} {conversation|chat}",
         "where are my {old|past|earlier|previous|saved|} {conversations|chats}", "are {conversations|chats|my conversations|my chats} {saved|kept|stored}", "<HOW> {see|find|list|show|open} {my|old|past|earlier|my old|saved} {conversations|chats}",
         "what does {-c|--continue|--resume} do", "do you {remember|keep|save} our {last|previous|old} {conversation|chat}", "<HOW> go on {later|tomorrow|where i stopped|where we stopped}"),
        ("i closed the terminal, can i get back to my chat", "pick up the chat from yesterday", "how do i find a conversation from last week", "is it possible to carry on with my previous conversation", "where did my old chat go"),
        "Run `gptoss chat -c` to continue the last conversation, or `gptoss chat --resume ID` for another. `gptoss conversations list` shows them all.",
        "gptoss chat -c", "chat -c"),
    Topic(
        "guide", "pipes and scripts",
        ("<HOW> {pipe|send|feed|pass} {text|a file|input|data|output|something|a diff|a log} {into|to|through} {gptoss|it|you|the model|ask}", "<HOW> use {gptoss|it|this|ask} in {a script|a pipe|scripts|shell scripts|pipes|the shell|bash|a shell script|a pipeline}",
         "<WHAT> gptoss ask", "what does {ask|gptoss ask} do", "does {gptoss|it|this} {work in|work with|support|read from} {pipes|a pipe|stdin|scripts|shell scripts|standard input}", "can gptoss {read|take} {stdin|standard input|a pipe|piped text}",
         "<HOW> write a commit message with gptoss", "where does the {answer|output|reasoning} go", "what is {written|printed} to {stdout|stderr}", "<HOW> ask {one|a single|just one} question {without a chat|from a script|}", "<HOW> {script|automate} {gptoss|this|it}"),
        ("i have a shell script that needs an answer from you", "does it read standard input", "give me an example of piping into gptoss", "how would i use this from bash", "is there a non interactive mode"),
        "Pipe text into ask: `git diff | gptoss ask \"write a commit message\"`. The answer goes to stdout and everything else to stderr.",
        "gptoss ask reads a pipe", "gptoss ask"),
    Topic(
        "guide", "fitting a GPU",
        ("<HOW> {fit|run|use|put|load} <MODEL> on {a|my|a small|an old|my small|an 8 gb|a 12 gb|a 16 gb|a 24 gb} {gpu|graphics card|card}", "{will|does|would|can} <MODEL> {fit|run|work} on {my|a small|an 8 gb|a 12 gb|a 16 gb|a 24 gb|a} {gpu|graphics card|card|machine|computer|laptop}",
         "how much {vram|gpu memory|video memory|memory|ram} {do i need|does it need|is needed|does the model need|is required}", "my gpu {is too small|has 8 gb|has only 8 gb|has 12 gb|has 16 gb|has 24 gb|has too little memory|is old|is small}", "what if the model does not fit {in|on|into} {my gpu|gpu memory|memory|the gpu}",
         "which {gpu|graphics card|card} do i need", "do i need {an nvidia gpu|a big gpu|a large gpu|a fast gpu|an h100}", "<WHAT> gptoss plan", "what does {plan|gptoss plan} do", "<HOW> {see|know|find out|check} {if|whether} {the model|it|20b|120b|gpt-oss} {fits|will fit|will run|runs} {here|on my machine|on my gpu|}",
         "{is my gpu|is my machine|is my computer|is my laptop} {big|good|fast|strong} enough", "<WHAT> offload", "can gptoss use my {gpu|graphics card|nvidia card}", "what hardware do i need", "what are the {hardware|system} requirements"),
        ("there are only 6 gb on my graphics card", "would the 120b work on a 24 gb card", "what are the memory requirements", "how can i find out before downloading whether it fits", "is an old nvidia card enough"),
        "Run `gptoss plan 20b`: it says how the model would run on this machine. What does not fit in GPU memory stays in host memory, packed.",
        "gptoss plan says what fits", "gptoss plan 20b"),
    Topic(
        "guide", "running without a GPU",
        ("{can|does|will|could} {gptoss|it|this|the model|gpt-oss|gpt-oss-20b|20b} {run|work|be used} without {a gpu|gpu|a graphics card|an nvidia card|cuda|any gpu}", "i {have no|don't have a|do not have a|have got no} {gpu|graphics card|nvidia card}", "do i need a {gpu|graphics card}",
         "is a {gpu|graphics card} {needed|required|necessary}", "<HOW> run {it|gptoss|the model|gpt-oss} {on a cpu|on the cpu|on my cpu|on a laptop without a gpu|without a gpu}", "can {it|gptoss|the model|gpt-oss} run on {a cpu|the cpu|my cpu|only a cpu|a laptop cpu}",
         "does {it|gptoss|the model} {work|run} on {a cpu|the cpu|my cpu|cpu only}", "what about {cpu|cpus|a cpu|running on the cpu}", "cpu only?", "is {a cpu|the cpu} enough", "<HOW> use the cpu"),
        ("my laptop has no graphics card, is that ok", "will a plain cpu do", "no gpu here, what now", "is it usable on a machine without nvidia hardware", "can i go without a graphics card"),
        "Yes. Without a GPU the model runs on the CPU, straight from the mapped checkpoint; 16 GB of RAM are enough for gpt-oss-20b.",
        "it runs on the CPU too", "runs on the CPU"),
    Topic(
        "guide", "privacy and the network",
        ("is {it|this|gptoss|my data|my conversation|what i type|what i write} {private|safe|sent anywhere|sent to openai|kept private|sent to the internet|secret}", "does {gptoss|it|this|this program} {send|leak|upload|share|collect|track} {my data|data|anything|what i type|telemetry|my questions}", "{can i|can it|does it|does gptoss} {use it|work|run} {offline|without internet|without the internet|without a network|without a connection}",
         "do i need {internet|the internet|a network|a connection|an account|an api key|a key|to be online}", "who can {read|see} {my conversations|my chats|what i type|this|my questions}", "is there {telemetry|tracking|logging}", "<WHAT> {the privacy|privacy here|your privacy policy|the privacy policy}",
         "does {openai|anyone|somebody} {see|read|get} {this|my data|what i type|my questions|my messages}", "where {is|are} my {data|questions|messages} {stored|sent|kept}", "is an internet connection {needed|required}", "offline?"),
        ("will anybody read my messages", "does this phone home", "i am on a plane with no wifi, does it still work", "is an account required", "does my text leave this computer"),
        "Everything stays on your machine. After the download nothing needs the network, there is no telemetry, and your conversations are in a private file.",
        "everything stays on the machine", "stays on your machine"),
    Topic(
        "guide", "giving instructions",
        ("<HOW> {give|set|add|change|use|write|pass} {instructions|an instruction|a system prompt|custom instructions|the instructions|my own instructions|a persona|a system message}", "<HOW> make {it|you|the model} {always answer in french|answer in french|answer briefly|speak like a pirate|answer in german|follow rules|be brief|follow my rules}",
         "what does {-s|--instructions|/instructions|the -s option} do", "<WHAT> {instructions|a system prompt|the system prompt|custom instructions|the developer message|the instructions option}", "can i {set|give|change|write} {a system prompt|instructions|custom instructions|the instructions|rules}", "where {do|can} i put {instructions|my instructions|a system prompt|my system prompt}"),
        ("i'd like every answer in spanish, how do i set that", "where does the system prompt go", "can it follow some rules of mine", "set a custom system prompt", "how are instructions given to it"),
        "Use `-s \"Answer in French.\"` or `-s @file`. Your instructions become the developer message of the conversation.",
        "-s gives instructions", "-s @file"),
    Topic(
        "guide", "adding files",
        ("<HOW> {add|attach|include|use|give|read|open|pass} {a file|files|a text file|my file|a document|documents|a source file|several files}", "can {you|it|gptoss|the model} {read|open|see|use|look at} {a file|files|my files|documents|a text file|a document}", "what does {-f|--file|/file|the -f option} do",
         "<HOW> ask {about|questions about} {a file|my file|a document|my code}", "can i {attach|add|upload|include|send} {a file|files|a document|a text file|several files}", "<HOW> {send|show|give} {you|it|the model} {a file|my file|a document}", "does gptoss {support|accept|take} {files|attachments|documents}"),
        ("there is a text file i want it to look at", "attach notes.txt", "are attachments possible", "how do i let the model see my document", "can several files be given at once"),
        "Use `-f notes.txt`, and repeat it for more files. In a chat, type `/file notes.txt`. Files must be text.",
        "-f adds a file", "-f notes.txt"),
    Topic(
        "guide", "leaving and stopping",
        ("<HOW> {leave|exit|quit|close|end|stop} {the chat|gptoss|the program|this|the conversation|this chat|this program}", "<HOW> {stop|interrupt|cancel|abort|break} {an answer|the answer|you|it|the model|the output|generation|an answer that is too long}", "{exit|quit}", "how do i get out {of here|of this|}", "what does {ctrl-c|ctrl-d|control c|control d} do",
         "{let me out|i want to leave|i want out}", "can i {stop|interrupt|cancel} {an answer|the answer|you|it}", "what happens {when|if} i press {ctrl-c|ctrl-d}"),
        ("which key ends the chat", "i'm done here, how do i close this", "it won't stop talking, what can i press", "how can an answer be interrupted", "way out of the program"),
        "Ctrl-C stops an answer and keeps what was said. Ctrl-D on an empty line, or `/exit`, leaves the chat.",
        "Ctrl-C stops, Ctrl-D leaves", "Ctrl-D"),
    Topic(
        "guide", "typing in the chat",
        ("<HOW> {write|type|enter|make|insert|add} {a new line|a newline|several lines|more than one line|multiple lines|a line break|multi-line text|a longer message}", "<HOW> {paste|edit|enter} {text|code|a long text|long text|a block of text|a long message}", "{what|which} {keys|key bindings|shortcuts|keyboard shortcuts} {are there|can i use|exist|do you have}", "what does {enter|alt-enter|ctrl-j|the enter key} do",
         "<HOW> {send|submit} {a message|my message}", "can i {write|type|paste} {several lines|multiple lines|more than one line|code|long text}", "enter sends {too early|my message too early|at once}"),
        ("every time i hit enter it sends, i want a second line", "is there a key for a line break", "what about messages with several lines", "list the keyboard shortcuts", "how does one submit a message"),
        "Enter sends. Alt-Enter or Ctrl-J makes a new line, and pasted text keeps its lines and does not send itself.",
        "Enter sends, Alt-Enter is a new line", "Alt-Enter"),
    Topic(
        "guide", "verifying a checkpoint",
        ("<HOW> {verify|check|test|validate} {the files|the download|the checkpoint|a checkpoint|the model files|my download|the weights|the checksums|a model}", "is my {download|checkpoint|copy} {complete|correct|ok|broken|damaged|corrupt}", "{a file is|the checkpoint is|my download is|the files are} {broken|damaged|corrupt}", "<WHAT> gptoss verify", "what does {verify|gptoss verify} do",
         "<HOW> {repair|fix} {a file|the download|the checkpoint|a broken file|a broken download|a damaged checkpoint}", "how do i know {the files are right|the download is complete|the weights are right|nothing is broken|the model is not corrupt}", "are the files {checked|verified}"),
        ("i fear one of the files got corrupted", "how sure can i be that the weights are intact", "run a check of the checksums", "repair my checkpoint", "what proves that the download is right"),
        "Run `gptoss verify 20b`: offline, it compares every file with its recorded sha256. `gptoss download 20b` then repairs only what is wrong.",
        "gptoss verify checks every file", "gptoss verify 20b"),
    Topic(
        "guide", "listing and removing models",
        ("<HOW> {remove|delete|uninstall|get rid of|erase} {a model|the model|gpt-oss-20b|the 20b|a checkpoint|the weights|the files}", "<HOW> {list|see|show} {installed models|the models i have|my models|the installed models|what is installed}", "<HOW> {free|get back|clear|save} {disk space|space|disk|some space}", "which models {do i have|are installed|have i downloaded|did i download}", "what does {gptoss list|gptoss remove|remove|list} do",
         "{delete|remove} {the model|the 20b|a model|the checkpoint}", "where {are|is} the {model files|checkpoints|weights|models|model} {stored|saved|on disk|kept}", "my disk is full", "<HOW> make room {on my disk|}"),
        ("i need my disk space back", "what is installed on this computer", "throw away the 20b", "in which folder do the weights lie", "how are models uninstalled"),
        "`gptoss list` shows every model, its size and where it lies. `gptoss remove 20b` deletes one and names the bytes first.",
        "gptoss list and gptoss remove", "gptoss remove 20b"),
    Topic(
        "guide", "temperature and seed",
        ("<HOW> {set|change|raise|lower|control|choose} the {temperature|seed|sampling|randomness|top-p}", "<HOW> {get|make} {the same answer|the same answer twice|repeatable answers|a repeatable answer|reproducible answers|answers reproducible|answers repeatable|the output deterministic}", "<WHAT> {temperature|the temperature|the seed|a seed|top-p|sampling|the sampler}", "what does {-t|--temperature|--seed|--top-p} do", "why is {the answer|every answer|your answer} different {each time|every time|now}",
         "<HOW> make {it|answers|you|the model} {more creative|less random|more random|deterministic|more predictable}", "is {it|the answer|the output} {random|deterministic|reproducible}"),
        ("the replies differ every time, can i prevent that", "how random are the answers", "can runs be reproduced exactly", "i want greedy decoding", "what's a good temperature"),
        "`-t 0.7` sets the temperature and `--top-p` the nucleus; both are 1.0 by default. `--seed 7` makes an answer repeatable.",
        "-t and --seed", "--seed 7"),
    Topic(
        "guide", "limits and exit statuses",
        ("<HOW> {limit|bound|restrict|shorten} {the length|the answer|the length of the answer|the number of tokens|answers|the output}", "what does {--max-tokens|the exit status|exit status 7|exit code 7|status 7|exit status 3} {do|mean}", "<WHAT> {the exit status|the exit statuses|exit codes|the exit codes|max tokens}", "why {was|is} {the answer|my answer|it} cut {short|off}",
         "which exit {codes|statuses} are there", "what does gptoss return {on an error|on errors|when it fails|to the shell}", "<HOW> {see|know|find out|check} {if|whether} {it failed|gptoss failed|the answer was cut|an error happened|it worked} {in a script|}"),
        ("the reply ends in the middle of a sentence", "how long may an answer get", "my script got status 7 back", "list the exit codes", "can i cap the number of tokens"),
        "`--max-tokens N` bounds the answer. The exit status is 0 when done, 2 for bad input, 3 if no model is installed and 7 if cut short.",
        "--max-tokens and the exit status", "--max-tokens N"),
    Topic(
        "guide", "JSON output",
        ("<HOW> {get|have|print|produce|receive} {json|json output|the answer as json|output as json|structured output|an answer in json}", "does {gptoss|it|ask} {support|have|print|write|do} {json|json output|structured output}", "what does {--json|--stream-json} do", "<WHAT> {--json|the json output|the json option}", "can {it|gptoss|you|ask} {answer in|print|write|give me} json", "machine readable output", "json?"),
        ("i want to parse the answer with jq", "is there a machine readable format", "give me the token counts as json", "output for programs to read", "can the result be printed as a json object"),
        "`gptoss ask --json` prints one object with the answer, the reasoning, why it ended and the counts; `--stream-json` prints JSON lines.",
        "gptoss ask --json", "ask --json"),
    Topic(
        "guide", "finding help",
        ("help", "help me", "i need help", "<HOW> {find|get|see} {help|the help|more help|the documentation|the manual|all commands|the options|a list of commands}", "{what|which} {commands|options|slash commands} {are there|do you have|can i use|exist|does gptoss have}", "is there {a manual|documentation|a guide|any documentation|a help page}", "list {the|all|all the} {commands|options|slash commands}",
         "what do i do {now|next|first}", "how {do i start|do i begin|does this work|does it work|do i use this|do i use gptoss|do i use it|does gptoss work}", "where {do|should} i {start|begin}", "i am {new|lost|new here|a beginner}", "{get|getting} started"),
        ("this is my first time here", "i have no idea what to do", "give me a list of all commands", "is there a tutorial", "how should a beginner start"),
        "`gptoss --help` lists the commands and `gptoss ask --help` the options of one; in a chat type `/help`. Or just ask me about gptoss.",
        "gptoss --help", "gptoss --help"),
    Topic(
        "guide", "the license and the cost",
        ("{what|which} license {does gptoss have|do the models have|is it under|is this under|applies|do you use|does it use|is used}", "is {it|gptoss|this|the model|gpt-oss} {free|open source|free to use|free of charge|open}", "{what|how much} does {it|gptoss|this|the model|gpt-oss} cost", "do i have to pay {for it|for this|for gptoss|}", "can i use {it|gptoss|gpt-oss|the model|this} {at work|commercially|for business|in a company|for commercial purposes}", "<WHAT> the license", "does {it|gptoss} cost {money|anything}", "is there a {fee|subscription|price}"),
        ("am i allowed to use this commercially", "what's the price", "under which licence do the weights come", "do you charge for this", "is a paid plan needed"),
        "gptoss and the gpt-oss models are both under the Apache 2.0 license. Running them costs nothing but electricity.",
        "Apache 2.0, no cost", "Apache 2.0"),
    Topic(
        "guide", "speed",
        ("why is {it|gptoss|the model|this|the answer} {so slow|slow}", "how fast {is it|is gptoss|is the model|will it be|is gpt-oss|is 20b|will it run}", "<HOW> make {it|gptoss|the model|answers|this} {faster|quicker|run faster}", "<HOW> {measure|test|see|benchmark} {the speed|how fast it is|the performance|my machine|tokens per second}", "<WHAT> gptoss bench", "what does {bench|gptoss bench} do", "{how many tokens per second|what speed|what performance} {can i expect|will i get|do i get|does it reach}",
         "{it is|this is|gptoss is|the model is} {too slow|slow|very slow}", "what limits the speed", "can it {go|be|run} faster", "what {decides|determines} the speed"),
        ("answers take ages, why", "how quick will it be on my laptop", "measure tokens per second for me", "is there a benchmark", "speed it up"),
        "Speed is memory bandwidth divided by the bytes read per token. `gptoss bench` measures both on your machine and says what limits it.",
        "bandwidth limits it, gptoss bench measures", "gptoss bench"),
    Topic(
        "guide", "seeing the reasoning",
        ("<HOW> {see|show|hide|fold|turn off|read|unfold|display|view} {the reasoning|your reasoning|the thinking|your thoughts|your thinking|the analysis}", "can i {see|read|hide|show|watch} {the reasoning|your reasoning|your thoughts|the thinking|what you think|how you think}", "what does {--reasoning|ctrl-o|/reasoning} do", "why {do i|can i|can't i} {see|not see} {the reasoning|your reasoning|your thoughts|the thinking}", "{hide|show} {the reasoning|your reasoning|the thinking|your thoughts} {please|}", "i don't want to see the {reasoning|thinking}", "what is the {dim|grey|gray} text"),
        ("i only want the answer, not the thinking", "where can i look at your thoughts", "make the reasoning disappear", "what's this grey stuff before the answer", "is the thinking visible"),
        "`--reasoning show` prints the reasoning and `--reasoning hide` leaves it out. In a chat, Ctrl-O shows or folds it.",
        "--reasoning show or hide", "--reasoning hide"),
    Topic(
        "guide", "problems",
        ("{it|gptoss|this|the program} {does not|doesn't|will not|won't} {work|start|run|use my gpu|find my gpu}", "{something|it} {is broken|is wrong|went wrong|does not work|failed}", "i {get|have|see|got} an {error|error message}", "<WHAT> gptoss doctor", "what does {doctor|gptoss doctor} do", "{there is|i have} a problem", "<HOW> {solve|find|fix|debug|report} {a problem|problems|an error|a bug|what is wrong|my problem}", "why {does it not|doesn't it|does gptoss not|is my gpu not} {work|start|run|used|found}", "my gpu is not {used|found|detected}", "it {crashes|crashed|fails|hangs}"),
        ("i ran into trouble", "the program keeps crashing", "why isn't my graphics card being used", "diagnose my setup", "there's an error message i can't make sense of"),
        "Run `gptoss doctor`: it checks the GPU, memory, disk and torch, and says what to do about each problem.",
        "gptoss doctor", "gptoss doctor"),
)

CONCEPTS = (
    Topic(
        "concept", "MXFP4",
        ("<WHAT> {mxfp4|MXFP4|the mxfp4 format|mxfp4 quantization|MXFP4 weights|fp4|the 4-bit format}", "what does {mxfp4|MXFP4} {mean|stand for|do}", "how does {mxfp4|MXFP4|the 4-bit format} work", "how are the {weights|experts} {stored|packed|quantized|compressed}", "how many bits {per weight|does a weight have|does mxfp4 use|are used per weight}", "why {mxfp4|MXFP4|4 bits|only 4 bits}", "mxfp4", "is the model quantized"),
        ("how come the files are so small", "i keep reading mxfp4 everywhere, what's that", "in what number format are the experts", "what quantization do you use", "help me understand MXFP4"),
        "MXFP4 stores 32 weights in 16 bytes of 4-bit floats and one shared scale byte: 4.25 bits a weight. The experts are stored that way.",
        "32 4-bit floats share one scale", "4.25 bits"),
    Topic(
        "concept", "attention sinks",
        ("<WHAT> {sinks|attention sinks|an attention sink|a sink|the sinks|sink logits|a sink logit}", "what {does a sink|do sinks|do the sinks|do attention sinks|does an attention sink} do", "how do {sinks|attention sinks|the sinks} work", "why {are there sinks|does the model have sinks|sinks|do we need sinks|attention sinks}", "what are {sinks|the sinks|attention sinks} {good for|for}", "sinks", "attention sinks"),
        ("what purpose do the sinks have", "i read that each head has a sink", "help me understand attention sinks", "break down sinks for me", "the word sink, what does it refer to in attention"),
        "A sink is a learned number for each attention head that joins the softmax and is then dropped, so a head can attend to nothing.",
        "a learned logit that lets a head attend to nothing", "attend to nothing"),
    Topic(
        "concept", "the sliding window",
        ("<WHAT> {the sliding window|a sliding window|sliding windows|sliding window attention|sliding attention|the window|local attention}", "how does {the sliding window|a sliding window|sliding window attention|sliding attention} work", "what does {the sliding window|sliding window attention|a sliding window} do", "why {a sliding window|sliding windows|is there a sliding window|do layers slide}", "how {large|long|big|wide} is the {window|sliding window}", "sliding window", "what is a sliding layer"),
        ("some layers only look at the last tokens, why", "help me understand sliding windows", "how many tokens does the sliding window cover", "sliding window attention, please break it down", "what's the point of a sliding window"),
        "In every second layer of gpt-oss a token sees only the last 128 tokens: a sliding window. It keeps the cache small; the other layers see everything.",
        "every second layer sees 128 tokens", "last 128 tokens"),
    Topic(
        "concept", "experts",
        ("<WHAT> {experts|an expert|the experts|a mixture of experts|mixture of experts|moe|MoE|active experts|the mixture of experts}", "how do {experts|the experts} work", "how many experts {are there|does it have|does the model have|are active|are used|does gpt-oss have}", "how does {a mixture of experts|mixture of experts|moe|MoE} work", "what does {an expert|moe|MoE|mixture of experts} {do|mean}", "why {experts|does it have experts|a mixture of experts|so many experts}", "experts", "how many parameters are active"),
        ("what happens in a mixture of experts layer", "help me understand the experts", "number of experts per token", "why use many small networks instead of a big one", "moe, what's that about"),
        "Each layer has many small networks, the experts: 32 in gpt-oss-20b, 128 in gpt-oss-120b. Only 4 run for each token, so most weights rest.",
        "many small networks, 4 run per token", "Only 4 run"),
    Topic(
        "concept", "the router",
        ("<WHAT> {the router|a router|routing|expert routing|the routing}", "what does {the router|a router} do", "how does {the router|routing|a router|expert routing} work", "{how|who} {are|chooses the|picks the|selects the} experts {chosen|selected|picked|}", "which expert is {used|chosen|picked|selected}", "how does the model {choose|pick|select} {experts|its experts|an expert}", "router"),
        ("by what rule do tokens get their experts", "help me understand the router", "what part decides on the experts", "which component selects experts", "routing, in a few words"),
        "The router is a small linear layer that scores all experts for a token. The best 4 run, and a softmax over their scores weighs what they say.",
        "it scores experts and the best 4 run", "scores all experts"),
    Topic(
        "concept", "Harmony",
        ("<WHAT> {harmony|Harmony|the harmony format|the Harmony format|openai harmony|the prompt format|openai-harmony}", "what does {harmony|Harmony|the harmony format} {do|mean}", "how does {harmony|Harmony|the harmony format|the prompt format} work", "why {harmony|Harmony|is harmony needed}", "how are messages {formatted|written|encoded}", "which {prompt|chat} format {is used|do you use|does gpt-oss use}", "harmony"),
        ("what's the chat template of gpt-oss", "help me understand harmony", "in what format does the model get messages", "the name harmony comes up a lot, what is it", "how is a prompt laid out for gpt-oss"),
        "Harmony is the format gpt-oss was trained on: messages with a role and a channel between special tokens. gptoss writes and reads it for you.",
        "the message format of gpt-oss", "messages with a role and a channel"),
    Topic(
        "concept", "channels",
        ("<WHAT> {channels|a channel|the channels|the analysis channel|the final channel|the commentary channel|analysis and final}", "which channels {are there|exist|does harmony have|do you have}", "what does {the analysis channel|the final channel|a channel|the commentary channel} {do|contain|mean}", "how do channels work", "what is the difference between analysis and final", "why {channels|are there channels}", "channels"),
        ("reasoning and answer are kept apart how", "help me understand channels", "name the channels", "what's in analysis and what's in final", "where does commentary go"),
        "Harmony has three channels: analysis for the reasoning, commentary for tool calls and preambles, and final for the answer you read.",
        "analysis, commentary and final", "three channels"),
    Topic(
        "concept", "the KV cache",
        ("<WHAT> {the kv cache|a kv cache|kv cache|KV cache|the KV cache|the cache|the key value cache}", "what does {the kv cache|the KV cache|a kv cache|the cache} do", "how does {the kv cache|the KV cache|a kv cache} work", "how {large|big} is the {kv cache|KV cache|cache}", "why {a kv cache|is there a kv cache|do we need a kv cache|the kv cache}", "kv cache", "how much memory does {the kv cache|the cache|the context} {need|take|use}"),
        ("why is a second question answered sooner", "help me understand the kv cache", "what is kept in memory between tokens", "keys and values, why are they stored", "how many bytes per token does the cache take"),
        "The KV cache keeps the keys and values of every token already read, so nothing is read twice. For gpt-oss-20b it takes 24 KiB a token.",
        "keys and values of what was read", "keys and values"),
    Topic(
        "concept", "YaRN and positions",
        ("<WHAT> {yarn|YaRN|rope|RoPE|rotary embeddings|positional encoding|the position encoding|rotary position embeddings|yarn scaling}", "what does {yarn|YaRN|rope|RoPE} {do|mean|stand for}", "how does {yarn|YaRN|rope|RoPE|the position encoding} work", "how does the model know {positions|the order of words|where a token is|the order of tokens}", "why {yarn|YaRN|rope|RoPE}", "yarn", "rope", "how are positions encoded"),
        ("how can it handle contexts longer than it was first trained on", "help me understand yarn", "how is word order represented", "rotary embeddings, in short", "what stretches the context to 131072"),
        "Positions are turned into rotations of queries and keys, called RoPE. YaRN stretches them by 32, from 4,096 to 131,072 tokens.",
        "rotations, stretched by 32", "rotations of queries and keys"),
    Topic(
        "concept", "tokens",
        ("<WHAT> {a token|tokens|the tokens|tokenization|the tokenizer|a tokenizer|the vocabulary}", "how many tokens {are there|does the vocabulary have|are in the vocabulary|does it know}", "how does {the tokenizer|tokenization|a tokenizer} work", "what does token mean", "how {large|big} is the vocabulary", "how long is a token", "tokens", "why tokens"),
        ("into what pieces is text cut", "help me understand tokens", "is a token the same as a word", "how many entries does the vocabulary contain", "what units does the model read"),
        "A token is a piece of text, about three quarters of a word. The vocabulary of gpt-oss has 201,088 of them, and the model writes one at a time.",
        "pieces of text", "piece of text"),
    Topic(
        "concept", "the context length",
        ("<WHAT> {the context length|context length|the context|the context window|a context window|the context size}", "how long {can|may} {a conversation|a chat|the context|my prompt|a prompt|the prompt|my text} {be|get|become}", "how {long|large|big} is the {context|context window|context length}", "how {much|many tokens} {text|} {can it read|can you read|fits|fit in the context|can the model read}", "what does {--context|the context option} do", "what happens {when|if} the context is full", "context length", "<HOW> {change|set|increase} the context {length|}"),
        ("can it read a whole book", "help me understand the context window", "what's the maximum length of a chat", "how much can i paste at once", "is there a limit on the length of the conversation"),
        "The context length is how many tokens a conversation may hold: up to 131,072 for gpt-oss, if memory allows. `--context N` sets it.",
        "up to 131,072 tokens", "131,072 for gpt-oss"),
    Topic(
        "concept", "checkpoints",
        ("<WHAT> {a checkpoint|checkpoints|the checkpoint|safetensors|a shard|shards|the weights|a safetensors file|open weights|an open-weight model}", "what does {checkpoint|safetensors|shard|open-weight|open weights} mean", "what is {in a checkpoint|in the checkpoint|a checkpoint made of|inside a checkpoint}", "which {file format|format} {is used|do the weights have|do you use|does the checkpoint have}", "what {files|is downloaded} {make up a checkpoint|belong to a model|are in a checkpoint}", "safetensors", "what does a checkpoint contain"),
        ("of what files does a model consist", "help me understand safetensors", "the word checkpoint, what does it refer to", "is pickle used for the weights", "what's stored inside the shards"),
        "A checkpoint is the files of one model: a config and the weights in safetensors shards, which hold plain numbers and no code.",
        "config and safetensors shards", "safetensors shards"),
    Topic(
        "concept", "prefill and decode",
        ("<WHAT> {prefill|decode|decoding|the prefill|prefill and decode|the decode rate|time to first token}", "what does {prefill|decode|the decode rate|time to first token} mean", "what is the difference between prefill and decode", "how does {prefill|decoding|decode|generation} work", "why does the first {token|word} take {so long|longer|long}", "what happens {before|until} the first {token|word}", "prefill", "how does the model {write|generate} text"),
        ("it waits before the first word, what is it doing", "help me understand prefill", "what are the two phases of an answer", "prefill versus decode", "what's meant by decode rate"),
        "Prefill reads the whole prompt at once; decode then writes one token after another. The first is limited by arithmetic, the second by memory.",
        "read the prompt, then write tokens", "reads the whole prompt"),
    Topic(
        "concept", "reasoning",
        ("<WHAT> {reasoning|the reasoning|a reasoning model|chain of thought|the chain of thought|the thinking}", "why {do you|does it|does the model|do models} {reason|think} {first|before the answer|before answering|at all}", "how does {reasoning|the reasoning|thinking} work", "what does reasoning {do|mean}", "what is reasoning {for|good for}", "do you {really think|really reason|think|reason}", "is the reasoning {kept|remembered|dropped|saved in the context}"),
        ("why does it talk to itself first", "help me understand the reasoning", "does thinking before answering help", "what's a reasoning model", "does old reasoning stay in the context"),
        "Before it answers, the model writes its reasoning to the analysis channel. It helps with hard questions, and is dropped once the turn is over.",
        "analysis first, then the answer", "dropped once the turn is over"),
)

PERSONA = (
    Topic(
        "identity", "who I am",
        ("who are you", "what are you", "{tell me|say something} about yourself", "introduce yourself", "what {is your name|are you called|should i call you|'s your name}", "who am i {talking to|speaking to|chatting with}", "what {kind of|sort of} {model|program|assistant|ai|thing} are you", "are you {a robot|an ai|a human|human|a person|real|a bot|a machine|alive}", "what model {are you|is this|am i talking to|is answering|is running}", "which model {are you|is this|am i talking to|is answering|is running}", "do you have a name", "describe yourself"),
        ("say who you are", "with whom am i chatting", "is there a human on the other side", "what's the name of the model that answers me", "may i know who i am speaking with"),
        "I am the demo model of gptoss: a tiny model with the architecture of gpt-oss, trained only to be a guide to this program. I am not gpt-oss.",
        "the tiny demo model, not gpt-oss", "demo model of gptoss"),
    Topic(
        "identity", "whether I am gpt-oss",
        ("are you {gpt-oss|gpt-oss-20b|gpt-oss-120b|chatgpt|ChatGPT|gpt-4|gpt|gpt-5|claude|the real model|the real gpt-oss|the 20b|openai's model}", "is this {gpt-oss|gpt-oss-20b|gpt-oss-120b|chatgpt|ChatGPT|the real model|the real thing|the real gpt-oss|gpt-4}", "am i {talking to|using|running} {gpt-oss|gpt-oss-20b|chatgpt|ChatGPT|the real model|the real thing|gpt-4}", "so you are {gpt-oss|chatgpt|not gpt-oss|ChatGPT|the real model}", "are you made by openai", "did openai {make|train|build|create} you", "you are {chatgpt|gpt-oss|ChatGPT}"),
        ("you must be chatgpt, right", "did i get the real gpt-oss here", "is it gpt-oss that answers", "isn't this openai's model", "would you be gpt-oss-20b by any chance"),
        "No. I only share the architecture of gpt-oss; I am a tiny demo that ships with gptoss. The real model comes with `gptoss download 20b`.",
        "no, only the architecture is the same", "only share the architecture"),
    Topic(
        "identity", "how large I am",
        ("how {big|large|small} are you", "how many {parameters|weights|layers|experts} do you have", "what is your size", "how many parameters {are you|have you got}", "are you {big|large|small|tiny|a large model|a small model}", "how {were|are} you {trained|made|built|created}", "who {made|trained|built|created|wrote|programmed} you", "what {were you|are you} trained on", "where do you come from", "what is your training data", "how {clever|smart|good|intelligent} are you"),
        ("what's your parameter count", "tell me how you were made", "who is behind this demo", "how did they train you", "what data taught you"),
        "I have fewer than four million trained parameters, six layers and eight experts in each; gpt-oss-20b has 21 billion. I was trained on generated text about gptoss.",
        "fewer than four million trained parameters", "fewer than four million"),
    Topic(
        "identity", "what I can do",
        ("what can {you do|i ask you|you help with|you answer|you tell me|i ask|i ask here|we talk about}", "what {do you know|are you good at|are your abilities|are you able to do|are you good for|else can you do|else can i ask|else do you know}", "how can you help {me|}", "can you {help|help me|do anything|answer questions|do more}", "what are you {for|useful for|capable of}", "what {questions|topics} {can you answer|do you know|can i ask}", "which {questions|topics} {can you answer|do you know|can i ask}", "give me {an example|examples|an idea|ideas} {of what i can ask|of what to ask|what to ask}", "what should i ask {you|}", "can you {program|code|write code|write|translate|browse|search the web|do math|do maths|calculate}"),
        ("what are your skills", "suggest a question for you", "tell me what you're able to answer", "what topics do you cover", "what's in your power"),
        "I can explain gptoss and ideas like MXFP4 or experts, add two numbers below 100, and remember a name or a favourite that you tell me.",
        "gptoss, ideas, sums, names", "add two numbers below 100"),
    Topic(
        "greeting", "a greeting",
        ("{hello|hi|hey|good morning|good evening|good afternoon|hello there|hi there|hey there|greetings|hallo|howdy|good day|hello!|hi!|yo|hiya|welcome} {demo|gptoss|friend|everybody|}", "hello {again|how is it going|nice to meet you}", "anybody {there|here}", "are you there", "{test|testing|ping|hello world}", "nice to meet you"),
        ("hello my friend", "hey, good evening to you", "hi again", "morning!", "is anyone there"),
        "Hello! I am the demo model of gptoss. Ask me how to use this program, or how gpt-oss works.",
        "greet and offer help", "Hello!"),
    Topic(
        "greeting", "how I am",
        ("how are you {|today|doing|doing today|feeling}", "how's it going", "how do you do", "how do you feel", "are you {ok|well|fine|happy|tired|good}", "what's up", "how is {it going|life|your day}", "{hello|hi|hey}, how are you", "how have you been", "everything {ok|fine|alright}"),
        ("how are things with you", "hi, how are you today", "are you doing well", "hey what's up", "feeling good today"),
        "All my experts are awake, thank you. What would you like to know about gptoss?",
        "a friendly word", "All my experts are awake"),
    Topic(
        "greeting", "thanks",
        ("{thanks|thank you|thx|many thanks|thanks a lot|thank you very much|thank you so much|cheers|ok thanks|great, thanks|perfect, thanks|thanks!|that helped|thank you, that helped}", "{great|perfect|nice|cool|awesome|wonderful|good|excellent|very good|well done|good job|ok|okay|i see|understood|got it|interesting|fine|alright}", "you {are|were} {very helpful|helpful|great|a great help|nice|good}", "that {was|is} {helpful|great|useful|good|very helpful|nice|interesting}", "i {appreciate it|like it|understand|like you|like this}"),
        ("thanks for your help", "that was really useful", "wonderful, thank you", "ok, i understand", "much appreciated"),
        "You are welcome! Ask me anything else about gptoss.",
        "a polite reply", "You are welcome"),
    Topic(
        "greeting", "a farewell",
        ("{bye|goodbye|good bye|see you|see you later|good night|bye bye|farewell|ciao|until tomorrow|until next time|bye!|see you soon|see you tomorrow|have a nice day|i have to go|i'm leaving|take care}",),
        ("ok, bye for now", "goodbye my friend", "good night, sleep well", "i must go now, see you", "have a good day"),
        "Goodbye! Ctrl-D leaves the chat; `gptoss chat -c` comes back to it.",
        "say goodbye", "Goodbye!"),
)

TOPICS = GUIDE + CONCEPTS + PERSONA

CANNOT = "I am only a demo and cannot answer that. The real model can: get it with `gptoss download 20b`."
CANNOT_PROOF = "cannot answer that"
