# No provider: a region's description goes in, configuration and sizes come out. So it can be planned, tested and read
# anywhere, and any cloud's module can take what it says.
terraform {
  required_version = ">= 1.9"
}
