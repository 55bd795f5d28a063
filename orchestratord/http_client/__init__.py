"""What every outbound HTTP request uses."""
