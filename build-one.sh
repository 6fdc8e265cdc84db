cd /work/main/tests/system
timeout ${T:-60} /opt/clients/bin/python -X faulthandler -c "
import faulthandler, sys; faulthandler.dump_traceback_later(${D:-45}, exit=True)
import unittest; unittest.main('serve_test', argv=['x','-v']+sys.argv[1:])
" "$@"
