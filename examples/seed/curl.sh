#!/bin/sh
# The llama-like API from the command line: the documented program, with only its URL changed.
# Run: sh examples/seed/curl.sh (LIBERTAI_API_BASE names the server)
curl --request POST \
    --url "${LIBERTAI_API_BASE:-http://127.0.0.1:8080}/completion" \
    --header "Content-Type: application/json" \
    --data '{"prompt": "Building a website can be done in 10 simple steps:","n_predict": 128}'
