"""Running any anomalib model under one protocol: stripped, quiet, interruptible, collected, timed, shown."""
