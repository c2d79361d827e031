"""What jobs of many processes need: ranks, queues, groups of ranks, signals, saved states, progress."""

from lossatlas.parallel.timing import Timing
from lossatlas.parallel.work_queue import CounterQueue, StaticQueue, WorkQueue, work_queue
from lossatlas.parallel.world import World, limit_threads, remove_stale_segments, world
