"""How often somebody may try: logins an account, mails an address."""

from service.limits import Limit
from service.settings import Settings

LOGIN_SECONDS = 30
# A mail's link lives as long as the pause or longer, so that an address whose mails are used up by
# somebody else has a working link among them.
CONFIRMATION_MAILS = Limit("confirmation", at_once=3, every_seconds=20 * 60)
RESET_MAILS = Limit("reset", at_once=3, every_seconds=20 * 60)


def logins(settings: Settings) -> Limit:
    """Of one address, known or not. An attacker holds its owner off for no longer than the pause
    between two attempts, and ends no login that there is."""
    return Limit("login", settings.login_attempts, LOGIN_SECONDS)
