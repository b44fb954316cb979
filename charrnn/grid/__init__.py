"""Many runs that differ in a few keys of the configuration: trained side by side, and set beside each other."""
