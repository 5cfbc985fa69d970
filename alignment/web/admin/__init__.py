"""The admin page: who may open it, and its sections on votes, voters, the Hub and the audit log."""
