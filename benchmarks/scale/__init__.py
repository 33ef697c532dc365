"""What npas costs, and saves, where models outgrow a machine."""
