# The machines' first system: NixOS's image for EC2, named by the metadata.
{
  imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
  networking.hostName = "";
  system.stateVersion = "26.05";
}
