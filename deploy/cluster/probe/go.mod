module slipway/deploy/cluster/probe

go 1.24
