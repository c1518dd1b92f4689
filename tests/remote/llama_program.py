"""The C++ server of llama.cpp with a model file, in a process of its own: a crash of it must not end the tests.

    llama_program.py MODEL.gguf CONTEXT_TOKENS

Prints the address when the server answers, and ends with its stdin.
"""

import importlib
import sys
from typing import Any

xllamacpp: Any = importlib.import_module("xllamacpp")  # not installed with the tests
parameters = xllamacpp.CommonParams()
parameters.model.path = sys.argv[1]
parameters.n_ctx = int(sys.argv[2])
parameters.n_parallel = 1
parameters.port = 0
parameters.endpoint_slots = True
parameters.cpuparams.n_threads = 1
server = xllamacpp.Server(parameters)
print(server.listening_address, flush=True)
sys.stdin.read()
