"""What can be wrong before a job is queued."""
