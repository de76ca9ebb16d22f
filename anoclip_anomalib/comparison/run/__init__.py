"""From jobs to rows: the job loop, its executors, a job, and the results folder."""
