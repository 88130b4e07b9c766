{
  description = "nixpipe: NixOS from a release number to a running machine, one pipe long";

  # A branch with Rust 1.95 or newer; that of a release keeps the one it began with.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      tools = [ "nixos-ami" "keygen" "ec2-up" "ec2-down" "ec2-ls" "nix-push" "nixos-switch" ];
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) systems);
      package = system: nixpkgs.legacyPackages.${system}.callPackage ./package.nix { };
    in
    {
      # nix build; nix profile install
      packages = each (system: { default = package system; nixpipe = package system; });

      # nix run .#nix-push -- --help
      apps = each (system: builtins.listToAttrs (map
        (name: { inherit name; value = { type = "app"; program = "${package system}/bin/${name}"; }; })
        tools));

      # All tools on the PATH of a system: environment.systemPackages = [ pkgs.nixpipe ];
      overlays.default = final: previous: { nixpipe = final.callPackage ./package.nix { }; };
    };
}
