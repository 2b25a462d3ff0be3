"""What every part shares: names, errors, types, settings, contracts, the link. Imports nothing of ours and nothing heavy."""
