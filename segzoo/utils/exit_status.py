"""Exit statuses of a command that a signal has stopped, by the signal."""

import signal

# 75 is sysexits' EX_TEMPFAIL, "try again"; 79 is the first number that sysexits leaves free; 129 and 130 are
# what a shell says of SIGHUP and SIGINT. A repeated signal gives the shell's 128 + number.
EXIT_STATUS = {signal.SIGUSR2: 75, signal.SIGTERM: 79, signal.SIGINT: 130, signal.SIGHUP: 129}
