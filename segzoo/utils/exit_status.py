"""Exit statuses of a command stopped by a signal."""

import signal

# 75 is sysexits' EX_TEMPFAIL, "try again"; 79 is the first number that sysexits does not use; 129 and 130 are
# a shell's for SIGHUP and SIGINT. A repeated signal gives the shell's 128 + number.
EXIT_STATUS = {signal.SIGUSR2: 75, signal.SIGTERM: 79, signal.SIGINT: 130, signal.SIGHUP: 129}
