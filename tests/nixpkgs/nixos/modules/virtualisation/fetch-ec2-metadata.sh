# Saves what the metadata service knows in /etc/ec2-metadata. A service that needs a token (IMDSv2) gets one; without an
# answer to that the old way is tried.
folder=/etc/ec2-metadata
service=http://169.254.169.254
mkdir -p "$folder"
chmod 0755 "$folder"

token=
for try in 1 2 3 4 5 6 7 8 9 10; do
    if token=$(curl --silent --show-error --fail --max-time 2 --request PUT \
        --header 'X-aws-ec2-metadata-token-ttl-seconds: 600' "$service/latest/api/token"); then
        break
    fi
    echo "no token from the metadata service yet (try $try)"
    sleep 1
done

# Saves one value; a value that is not there (404) leaves no file.
save() { # file path
    if curl --silent --show-error --fail --max-time 5 --retry 3 ${token:+--header "X-aws-ec2-metadata-token: $token"} \
        --output "$folder/$1.new" "$service/latest/$2"; then
        mv "$folder/$1.new" "$folder/$1"
    else
        rm -f "$folder/$1.new" "$folder/$1"
        echo "the metadata service has no $2"
    fi
}

echo "getting EC2 instance metadata..."
save ami-manifest-path meta-data/ami-manifest-path
# User data may hold a host key: readable by root alone.
(umask 077 && save user-data user-data)
save hostname meta-data/hostname
save public-keys-0-openssh-key meta-data/public-keys/0/openssh-key
