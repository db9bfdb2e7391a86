"""What every entry of a registry must keep, whatever it is."""
