# What is in the store of the machines' image.
{
  # What runs before the first deployment.
  system = (import <nixpkgs/nixos> { configuration = ./configuration.nix; }).system;

  # All tools, so that machines can build, too.
  tools =
    let
      pkgs = import <nixpkgs> { };
      all = import <nixpkgs/pkgs> { inherit (pkgs) system; };
    in
    pkgs.writeText "tools" (toString (builtins.attrValues all));
}
