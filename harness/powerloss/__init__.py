"""Power loss: from one recorded run the states that a disk may be left in, each recovered and judged."""
