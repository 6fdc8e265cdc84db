cd /work/main
build-lead/bin/moe serve models/demo $1 $2 --port 8124 &
pid=$!
for i in $(seq 100); do curl -fsS -o /dev/null http://127.0.0.1:8124/health 2>/dev/null && break; sleep 0.1; done
time timeout 20 curl -sS http://127.0.0.1:8124/v1/completions -d '{"model":"demo","prompt":"What is an epoch?","logprobs":2,"temperature":0,"max_tokens":30}' -H 'Content-Type: application/json' | cut -c1-400
echo; time timeout 20 curl -sS http://127.0.0.1:8124/v1/completions -d '{"model":"demo","prompt":"What is an epoch?","temperature":0,"max_tokens":300,"ignore_eos":true,"stream":true,"stream_options":{"include_usage":true}}' -H 'Content-Type: application/json' | tail -c 300
kill -TERM $pid; wait $pid; echo "exit $?"
