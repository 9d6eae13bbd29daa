from raybox_cluster.cli import main

main()
