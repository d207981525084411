"""Parts of `segzoo submit`: planning runs, freezing code, submitting, running, and the status of jobs."""
