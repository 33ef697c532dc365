"""Fresh environments: what installs, with which versions, and whether npas works there."""
