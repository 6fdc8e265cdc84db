import sys, os, time, subprocess
sys.path.insert(0,'/work/main/tests/system')
import faulthandler; faulthandler.dump_traceback_later(25, exit=True)
from served import Served, descendants
with Served("--expert-parallel", "1", "--verbose") as s:
    time.sleep(4)
    print("\n".join(s.log), flush=True)
    for pid in descendants(s.process.pid):
        print(pid, open(f"/proc/{pid}/cmdline").read().replace("\0"," ")[:120], flush=True)
        print(subprocess.run(["ls","-l",f"/proc/{pid}/fd"],capture_output=True,text=True).stdout[-900:])
