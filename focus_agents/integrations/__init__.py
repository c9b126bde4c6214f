"""Bridges to other training libraries. Nothing else imports them."""
