cd /work/main
build-lead/bin/moe serve models/demo --expert-parallel ${1:-8} --port 8123 &
pid=$!
for i in $(seq 200); do curl -fsS -o /dev/null http://127.0.0.1:8123/health 2>/dev/null && break; kill -0 $pid 2>/dev/null || break; sleep 0.2; done
echo "waited $i"
build-lead/bin/moe generate --url http://127.0.0.1:8123 "What is expert parallelism?"
sleep 1.2
build-lead/bin/moe status --url http://127.0.0.1:8123 | head -12
build-lead/bin/moe experts --url http://127.0.0.1:8123 | head -16
kill -TERM $pid; wait $pid; echo "exit $?"
