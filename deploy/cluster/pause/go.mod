module slipway/deploy/cluster/pause

go 1.24
