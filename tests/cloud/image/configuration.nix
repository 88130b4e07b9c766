# The machines' first system: NixOS's image for EC2, named by the metadata.
{
  imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
  networking.hostName = "";
  system.stateVersion = "26.05";
  # As on EC2, the image's system is not quite what a configuration of the user's builds.
  system.nixos.label = "26.05.image";
}
