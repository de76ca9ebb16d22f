"""What is compared: suites, from YAML to jobs."""
