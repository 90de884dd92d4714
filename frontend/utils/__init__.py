"""`treadle.utils`: tools around training, chiefly `treadle.utils.data`."""
