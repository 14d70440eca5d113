"""What a browser sees at `/`: for now one page that says what this is and how to make a first call.

In here: `landing` (the page). Never: secrets, logic that the admin API lacks, an address outside
this gateway (the page works without internet).
"""
