"""What every service shares: subjects, messages, lifecycle, ledger, broker, telemetry and the service shell."""
