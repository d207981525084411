"""What tools/submit.py is made of: planning runs, freezing code, submitting, running, and looking at jobs."""
