"""Every measurement that the README reports, one after the other: `make bench`."""

from tests.benchmarks import bench_alignment, bench_start, bench_votes

bench_start.main()
bench_votes.main()
bench_alignment.main([])
