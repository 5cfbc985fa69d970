"""`python -m alignment.starter OUT`: make the starter model again, from nothing."""

from alignment.starter.starter import main

main()
