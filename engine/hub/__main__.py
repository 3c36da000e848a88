from engine.hub.download import main

main()
