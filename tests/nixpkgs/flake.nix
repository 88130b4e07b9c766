{
  description = "A small nixpkgs with the shape of NixOS, for tests on the local cloud";

  outputs = { self }:
    let
      lib = import ./lib;
    in
    {
      lib = lib // {
        nixosSystem = args: import ./nixos/lib/eval-config.nix ({
          # In a flake the system is named by the caller or by nixpkgs.hostPlatform.
          system = null;
          inherit lib;
        } // args // {
          modules = args.modules ++ [ { nixpkgs.flake.source = self.outPath; } ];
          modulesLocation = args.modulesLocation or (builtins.unsafeGetAttrPos "modules" args).file or null;
        });
      };
      legacyPackages = lib.genAttrs lib.systems.flakeExposed (system: import ./. { inherit system; });
    };
}
