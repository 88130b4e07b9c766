# What is in the store of the machines' image.
{
  # What runs before the first deployment: as NixOS's image for EC2, whose name comes from the metadata.
  system =
    (import <nixpkgs/nixos> {
      configuration = {
        imports = [ <nixpkgs/nixos/modules/virtualisation/amazon-image.nix> ];
        networking.hostName = "";
        system.stateVersion = "26.05";
      };
    }).system;

  # All tools, so that machines can build, too.
  tools =
    let
      pkgs = import <nixpkgs> { };
      all = import <nixpkgs/pkgs> { inherit (pkgs) system; };
    in
    pkgs.writeText "tools" (toString (builtins.attrValues all));
}
