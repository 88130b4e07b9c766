{
  description = "nixpipe: NixOS from a release number to a running machine, one pipe long";

  # A branch with Rust 1.95 or newer; that of a release keeps the one it began with.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs = { self, nixpkgs }:
    let
      tools = {
        nixos-ami = "Find the EC2 image of a NixOS release";
        keygen = "Make an SSH key pair for a machine";
        ec2-up = "Make NixOS machines on EC2, or find them";
        ec2-down = "Remove machines that ec2-up made, with their security groups and key pairs";
        ec2-ls = "List the machines that ec2-up made, as records";
        nix-push = "Build a NixOS configuration and put its closure on the machine";
        nixos-switch = "Switch machines to the systems that were pushed to them";
      };
      systems = [ "x86_64-linux" "aarch64-linux" ];
      each = f: builtins.listToAttrs (map (name: { inherit name; value = f name; }) systems);
      package = system: nixpkgs.legacyPackages.${system}.callPackage ./package.nix { };
    in
    {
      # nix build; nix profile install
      packages = each (system: { default = package system; nixpipe = package system; });

      # nix run .#nix-push -- --help
      apps = each (system: builtins.mapAttrs
        (name: description: { type = "app"; program = "${package system}/bin/${name}"; meta = { inherit description; }; })
        tools);

      # All tools on the PATH of a system: environment.systemPackages = [ pkgs.nixpipe ];
      overlays.default = final: prev: { nixpipe = final.callPackage ./package.nix { }; };
    };
}
