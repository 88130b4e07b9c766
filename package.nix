# The tools as one Nix package: what `make install` installs, by nixpkgs' own Rust builder.
{ lib, rustc, rustPlatform, pkg-config, openssl, zlib }:

let
  workspace = (builtins.fromTOML (builtins.readFile ./Cargo.toml)).workspace.package;
in
assert lib.assertMsg (lib.versionAtLeast rustc.version workspace.rust-version)
  "nixpipe needs Rust ${workspace.rust-version}, and this nixpkgs has ${rustc.version}: take a newer one";
rustPlatform.buildRustPackage {
  pname = "nixpipe";
  inherit (workspace) version;

  src = lib.cleanSourceWith {
    src = ./.;
    # What no binary depends on must not change the package.
    filter = path: type: !(builtins.elem (baseNameOf path) [ "target" ".git" ".ci" "flake.nix" "flake.lock" "package.nix" ]);
  };
  cargoLock.lockFile = ./Cargo.lock;
  cargoBuildFlags = [ "--workspace" "--bins" ];

  nativeBuildInputs = [ pkg-config ];
  buildInputs = [ openssl zlib ];

  # The end-to-end tests need root and the local cloud, those beside nix-push's code a Nix and its store, git and zstd:
  # a build has none of these. The others here need no more than every build has.
  cargoTestFlags = [ "-p machine-record" "-p keygen" "-p nixos-switch" "--lib" "--bins" ];

  postInstall = ''
    make install-share BIN=$out/bin DESTDIR= PREFIX=$out
  '';

  meta = {
    description = "Small tools that take NixOS from a release number to a running machine on EC2";
    license = with lib.licenses; [ mit asl20 ];
    platforms = lib.platforms.linux;
    mainProgram = "nix-push";
  };
}
