"""Parts of `segzoo submit`: planning runs, copying code, submitting, running, and the status of jobs."""
