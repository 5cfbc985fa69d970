"""The measurements that the README reports, one after the other: `make figures`."""

import subprocess
import sys

from tests.benchmarks import (
    bench_alignment,
    bench_gate,
    bench_issue,
    bench_kill,
    bench_mixed,
    bench_ratings,
    bench_voters,
    bench_votes,
)

bench_votes.main([])
bench_issue.main()
bench_kill.main([])
bench_voters.main([])
bench_gate.main()
bench_ratings.main()
subprocess.run([sys.executable, "tests/browser/measure_vote_page.py"], check=True)
bench_alignment.main([])
bench_mixed.main([])
