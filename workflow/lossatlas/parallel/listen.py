"""Imported before anything else by every script: from here on a signal ends the job in good order, see ``interrupt``.

Imports of frameworks take seconds, in which a job may already be told to stop.
"""

from lossatlas.parallel import signals

signals.listen()
